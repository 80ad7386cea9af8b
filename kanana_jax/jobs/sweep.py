"""A comparison: every arm of a job at every value of every axis, with every seed.

    from kanana_jax.jobs import pretrain, sweep

    run = sweep.of(pretrain.JOB)

    def experiment():
        return sweep.Sweep(
            base=pretrain.Config(...),
            arms=(sweep.Arm(name="Muon", edits=("optimizer.name=muon",)), ...),
            axes=(sweep.Axis("optimizer.lr", (0.004, 0.015)),),
        )

On a command line a setting that is an axis takes a list, optimizer.lr=0.004,0.015; seeds=8,
arms=NAME,NAME and pack=8 belong to the comparison; all else edits `base`.
"""

import collections
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from kanana_jax import config
from kanana_jax.config import fields
from kanana_jax.config.fields import ConfigError, shown
from kanana_jax.config.ranges import Range
from kanana_jax.jobs import folder_names, initial, training
from kanana_jax.report import comparison, results
from kanana_jax.workdir import Run

WriteReport = Callable[[list[results.Run], Mapping[str, Any], Path], str]


@dataclass(frozen=True)
class Axis:
    """A setting and the values that runs differ in."""

    path: str
    values: tuple[Any, ...]

    def __post_init__(self):
        fields.check(self, "axes")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One contestant: a name and the `path=value` edits that make it."""

    name: str
    edits: tuple[str, ...] = ()
    axes: tuple[Axis, ...] = ()  # values that it alone runs at, besides those of the comparison

    def __post_init__(self):
        fields.check(self, "arms")
        if not self.name.strip() or not self.name.isprintable():
            raise ConfigError(
                f"an arm's name must have characters that can be seen, and no others; "
                f"got {shown(self.name)}"
            )


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """`base` with every arm, at every place on the axes, with every seed. No arms: itself alone."""

    base: config.TrainingConfig
    arms: tuple[Arm, ...] = ()
    axes: tuple[Axis, ...] = ()
    seeds: Annotated[int, Range(1, 10_000, "each is a run")] = 1
    # How many of the runs that differ in rate and seed train at once; see `pack`.
    pack: Annotated[int, Range(1, 1024, "their states are on the device together")] = 1

    def __post_init__(self):
        fields.check(self, "")
        for axis in self.all_axes():
            self._check_axis(axis.path)
        self.base.with_seed(self.base.train.seed + self.seeds - 1)

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def question(self) -> str:
        return self.base.question

    @property
    def record(self) -> dict[str, Any]:
        """What the record of a comparison has besides the settings of its base."""
        everything = json.loads(config.to_json(self))
        return {name: everything[name] for name in ("arms", "axes", "seeds", "pack")}

    def edited(self, edits: Iterable[str]) -> Self:
        """With `path=value` edits; refuses settings that arms or axes would silently override.

        New values of an axis hold for all arms: they replace the values of single arms.
        """
        own, of_axes, of_base = {}, {}, []
        axes = {axis.path for axis in self.all_axes()}
        for text in edits:
            path, value = (part.strip() for part in text.partition("=")[::2])
            if path in own or path in of_axes:
                raise ConfigError(f"{path} is given twice; give it once, with all its values")
            if path == "seeds":
                own["seeds"] = config.parse(int, value, path)
            elif path == "pack":
                own["pack"] = config.parse(int, value, path)
            elif path == "arms":
                own["arms"] = self._named_arms(_items(value, path))
            elif path in axes:
                of_axes[path] = self._axis(path, _items(value, path))
            else:
                of_base.append(text)
        edited = dataclasses.replace(
            self,
            base=self.base.edited(of_base),
            **{"arms": self.arms, **own},
            axes=tuple(({axis.path: axis for axis in self.axes} | of_axes).values()),
        )
        edited = dataclasses.replace(edited, arms=tuple(_without(a, of_axes) for a in edited.arms))
        for path in config.edited_paths(of_base):
            wanted = config.setting(edited.base, path)
            for arm in edited.arms:
                found = config.setting(_edited_arm(edited.base, arm), path)
                if found != wanted:
                    raise ConfigError(
                        f"{path} is what the arms compare: got {wanted}, and arm {arm.name!r} has "
                        f"{found}; change the arms in the experiment's function"
                    )
        return edited

    def listing(self) -> str:
        """The listing of `base`, with what the runs differ in."""
        axes = [f"{axis.path} = {', '.join(map(str, axis.values))}" for axis in self.axes]
        arms = [f"arm {arm.name!r}: {', '.join(arm.edits)}" for arm in self.arms]
        seeds = f"seeds = {self.seeds}"
        return "\n".join([*arms, *axes, seeds, "", self.base.listing()])

    def _check_axis(self, path: str) -> None:
        known = config.setting_names(type(self.base))
        if path not in known:
            raise ConfigError(
                f"an axis names no setting {shown(path)}; nearest are "
                f"{config.nearest(path, known, 3)}"
            )
        group, _, name = path.partition(".")
        is_group = dataclasses.is_dataclass(config.setting(self.base, path))
        if group == "resume" or not name or is_group:
            raise ConfigError(
                f"an axis is a setting in which runs can differ, such as optimizer.lr; got {path}"
            )
        if path == "train.seed":
            raise ConfigError("train.seed is what seeds sweeps; set seeds in place of that axis")

    def _named_arms(self, names: list[str]) -> tuple[Arm, ...]:
        known = {arm.name: arm for arm in self.arms}
        if not names:
            raise ConfigError("arms chooses those that run: give one name or more, got none")
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"arms names no arm {shown(name)}; there are {', '.join(map(repr, known))}, as "
                    'in --set=arms=["A","B"]'
                )
        return tuple(arm for name, arm in known.items() if name in names)

    def all_axes(self) -> list[Axis]:
        """The axes of all arms and of single ones."""
        return [*self.axes, *(axis for arm in self.arms for axis in arm.axes)]

    def values_of(self, arm: Arm) -> dict[str, tuple[Any, ...]]:
        """Where on each axis an arm runs: the shared values and its own, or where `base` is."""
        shared, own = ({axis.path: axis.values for axis in axes} for axes in (self.axes, arm.axes))
        paths = dict.fromkeys(axis.path for axis in self.all_axes())
        found = {}
        for path in paths:
            values = shared.get(path, (config.setting(self.base, path),)) + own.get(path, ())
            _expect_distinct(f"the values of {path} of arm {arm.name!r}", values)
            found[path] = values
        return found

    def run_of(self, arm: Arm, at: dict[str, Any], seed: int, folder: Path, name: str) -> Run:
        """One arm at one place; the name of its folder below `folder` begins with `name`."""
        base = self.base
        for path, value in at.items():
            base = _with(base, path, value)
        cfg = _edited_arm(base.with_seed(seed), arm)
        cfg = dataclasses.replace(cfg, train=initial.of_seed(cfg.train))
        for path in config.edited_paths(arm.edits):
            if path.partition(".")[0] in ("name", "question", "resume"):
                raise ConfigError(
                    f"arm {arm.name!r} sets {path}, which all arms share; set it for the experiment"
                )
            if path in at and config.setting(cfg, path) != at[path]:
                raise ConfigError(
                    f"arm {arm.name!r} sets {path}, which is an axis; leave one of the two out"
                )
        if self.seeds > 1 and cfg.train.seed != seed:
            raise ConfigError(
                f"arm {arm.name!r} sets train.seed, which seeds sweeps; leave one of the two out"
            )
        shaped = initial.with_shape(cfg)
        for path in (*at, *config.edited_paths(arm.edits)):
            wanted, found = config.setting(cfg, path), config.setting(shaped, path)
            if wanted != found:
                raise ConfigError(
                    f"arm {arm.name!r} sets {path} to {wanted}, but the model of train.init_from "
                    f"has {found}; leave one of the two out"
                )
        places = [name, *(folder_names.of_value(path, value) for path, value in at.items())]
        return Run(
            {"arm": arm.name, **at, "seed": seed}, cfg, folder / "-".join([*places, f"seed{seed}"])
        )

    def _axis(self, path: str, items: list[str]) -> Axis:
        """Values as the setting itself would read them."""
        edits = [f"{path}={item}" for item in items]
        values = [config.setting(self.base.edited([edit]), path) for edit in edits]
        if not values:
            raise ConfigError(f"{path} is what this sweeps: give one value or more, got none")
        return Axis(path, tuple(values))


def _items(text: str, path: str) -> list[str]:
    """The items of a JSON list, or those between commas."""
    try:
        items = json.loads(text) if text.startswith("[") else text.split(",")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} must be a list, got {shown(text)} ({error})") from None
    return [str(item).strip() for item in items]


def _without(arm: Arm, paths: Iterable[str]) -> Arm:
    return dataclasses.replace(arm, axes=tuple(a for a in arm.axes if a.path not in paths))


def of(job: training.Job, write_report: WriteReport | None = None) -> Callable[[Sweep, Path], None]:
    """run(sweep, workdir) of comparisons of `job`; `write_report` judges the finished runs."""

    def write(runs, about, path):
        return comparison.write(runs, about, path, curves=job.pictures)

    def run(sweep: Sweep, workdir: Path) -> None:
        runs = plan(sweep, workdir)
        made = training.Plan(sweep.base, sweep.record, runs, write_report or write, sweep.pack)
        training.run_all(job, made, workdir)

    return run


def plan(sweep: Sweep, workdir: Path) -> list[Run]:
    """The runs, value by value so that a first picture of all arms comes early.

    Raises ConfigError when two of them could be taken for each other, or an arm's edit would have
    no effect.
    """
    arms = sweep.arms or (Arm(name=sweep.name),)
    folders = folder_names.unique([arm.name for arm in arms])
    values = {arm.name: sweep.values_of(arm) for arm in arms}
    paths = list(dict.fromkeys(path for one in values.values() for path in one))
    every = [
        list(dict.fromkeys(v for arm in arms for v in values[arm.name][path])) for path in paths
    ]
    seeds = range(sweep.base.train.seed, sweep.base.train.seed + sweep.seeds)
    runs = []
    for point in itertools.product(*every):
        for seed in seeds:
            for arm in arms:
                at = dict(zip(paths, point, strict=True))
                if all(at[path] in values[arm.name][path] for path in paths):
                    runs.append(sweep.run_of(arm, at, seed, workdir / "runs", folders[arm.name]))
    _expect_distinct("the folders of runs", [folder_names.folded(r.directory.name) for r in runs])
    return runs


def _with(cfg: Any, path: str, value: Any) -> Any:
    """`cfg` with the setting at `path` replaced."""
    name, _, rest = path.partition(".")
    inner = _with(getattr(cfg, name), rest, value) if rest else value
    return dataclasses.replace(cfg, **{name: inner})


def _edited_arm(cfg: config.TrainingConfig, arm: Arm) -> config.TrainingConfig:
    """`cfg` with the edits of `arm`; a ConfigError names the arm."""
    try:
        return cfg.edited(arm.edits)
    except ConfigError as error:
        raise ConfigError(f"arm {arm.name!r}: {error}") from error


def _expect_distinct(what: str, values: Sequence[object]) -> None:
    twice = [value for value, count in collections.Counter(values).items() if count > 1]
    if twice:
        raise ConfigError(f"{what} must differ from each other, got {twice[0]!r} twice")
