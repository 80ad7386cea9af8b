"""The runs of an experiment: every arm at every rate and seed, each with a folder of its own."""

import collections
import dataclasses
import hashlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kanana_jax import config
from kanana_jax.report import progress

_LONGEST_BYTES = 100  # of an arm's name in a folder's, which file systems limit to 255


class Run(NamedTuple):
    """One training run of an experiment."""

    arm: str
    exp: config.Experiment
    directory: Path


def is_sweep(exp: config.Experiment) -> bool:
    """Whether `exp` is compared with itself in any way; without arms it is the only one."""
    return bool(exp.arms or exp.lrs) or exp.seeds > 1


def plan(exp: config.Experiment, workdir: Path) -> list[Run]:
    """The runs of an experiment, rate by rate so that a first picture of all arms comes early.

    Raises ConfigError when two of them could be taken for each other, or an arm's edit would have
    no effect.
    """
    if not is_sweep(exp):
        return [Run(exp.name, exp, workdir / "run")]
    arms = exp.arms or (config.Arm(name=exp.name, edits=()),)
    shared = exp.lrs or (exp.optimizer.lr,)
    for arm in arms:
        _expect_distinct(f"the rates of arm {arm.name!r}", shared + arm.lrs)
    folders = _folder_names([arm.name for arm in arms])
    runs = []
    for lr in dict.fromkeys([*shared, *(lr for arm in arms for lr in arm.lrs)]):
        for seed in range(exp.train.seed, exp.train.seed + exp.seeds):
            for arm in arms:
                if lr in shared + arm.lrs:
                    one = _of_arm(exp, arm, lr=lr, seed=seed)
                    runs.append(Run(arm.name, one, workdir / "runs" / _name(folders, arm, one)))
    _expect_distinct("the folders of runs", [_folded(run.directory.name) for run in runs])
    return runs


def _name(folders: dict[str, str], arm: config.Arm, one: config.Experiment) -> str:
    rate, seed = progress.rate(one.optimizer.lr), one.train.seed
    return f"{folders[arm.name]}-lr{rate}-seed{seed}"


def _of_arm(exp: config.Experiment, arm: config.Arm, *, lr: float, seed: int) -> config.Experiment:
    one = config.edit_arm(config.single_run(exp, lr=lr, seed=seed), arm)
    for path in config.edited_paths(arm.edits):
        group = path.partition(".")[0]
        if group == "resume" or not dataclasses.is_dataclass(getattr(exp, group)):
            raise config.ConfigError(
                f"arm {arm.name!r} sets {path}, which all arms share; set it for the experiment"
            )
    swept = [
        ("lrs", "optimizer.lr", (exp.lrs or arm.lrs) and one.optimizer.lr != lr),
        ("seeds", "train.seed", exp.seeds > 1 and one.train.seed != seed),
    ]
    for sweep, path, is_overridden in swept:
        if is_overridden:
            raise config.ConfigError(
                f"arm {arm.name!r} sets {path}, which {sweep} sweeps; leave one of the two out"
            )
    return one


def _expect_distinct(what: str, values: Sequence[object]) -> None:
    twice = [value for value, count in collections.Counter(values).items() if count > 1]
    if twice:
        raise config.ConfigError(f"{what} must differ from each other, got {twice[0]!r} twice")


def _folder_names(arms: Sequence[str]) -> dict[str, str]:
    """A name for each arm's folders: "Muon, Polar Express" becomes muon-polar-express.

    Where that is too long, empty, or another arm's too, a hash of the exact name follows.
    """
    _expect_distinct("names of arms", [" ".join(_composed(arm).split()) for arm in arms])
    slugs = {arm: _slug(arm) for arm in arms}
    taken = collections.Counter(map(_folded, slugs.values()))

    def name(arm: str, slug: str) -> str:
        short = slug.encode()[:_LONGEST_BYTES].decode(errors="ignore")
        if slug and short == slug and taken[_folded(slug)] == 1:
            return slug
        digest = hashlib.blake2b(_composed(arm).encode(), digest_size=4).hexdigest()
        return f"{short}-{digest}".strip("-")

    return {arm: name(arm, slug) for arm, slug in slugs.items()}


def _slug(name: str) -> str:
    """Lower-case letters, marks and digits of any script, and one "-" for all between them."""
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in _composed(name.casefold()))
    return "-".join("".join(kept).split())


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _folded(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFKC", name).casefold()
