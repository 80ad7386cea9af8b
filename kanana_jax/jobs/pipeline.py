"""Jobs in turn, each of which may start from the weights of an earlier one.

    run = pipeline.of({"base": pretrain.run, "mid": sweep.of(pretrain.JOB), "chat": sft.run})

    def experiment():
        return pipeline.Pipeline(
            name="small", question="...",
            stages=(
                pipeline.Stage("base", pretrain.Config(...)),
                pipeline.Stage("mid", sweep.Sweep(...), init_from="base"),
                pipeline.Stage("chat", sft.Config(...), init_from="base"),
                pipeline.Stage("both", sft.Config(...), init_from="base", merges=("mid", "chat")),
                pipeline.Stage(
                    "deep", pretrain.Config(...), init_from="base",
                    surgery=config.SurgeryConfig(grow=("stack=1",)),
                ),
            ),
        )

Each stage has a folder of its own in the working directory, with its checkpoints and report. The
last checkpoint becomes the model folder <stage>/model, and the next stage reads with its tokenizer.
Tokens of a text are made once, in the folder cache beside those of the stages.
A comparison of one arm has a model for each seed, such as model/seed0, from which the same seed of
a later comparison goes on. A stage with `surgery` grows or cuts that model and starts from the
result, each seed from its own, with a new optimizer; the text that the stage reads decides what
cuts keep. Finished stages are skipped: to run one again, remove its folder and those of the stages
that start from it. The report of the working directory has what every evaluator measured at the end
of every stage. On a command line, chat.train.num_steps=50 edits a stage.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from kanana_jax import config, parallel, surgery
from kanana_jax.config import SurgeryConfig, TrainingConfig, fields
from kanana_jax.config.fields import ConfigError, shown
from kanana_jax.config.paths import folder_name
from kanana_jax.config.ranges import Range
from kanana_jax.jobs import initial, sweep
from kanana_jax.report import results
from kanana_jax.report import stages as of_stages
from kanana_jax.weights import merge, run_folder
from kanana_jax.workdir import Run, events, provenance, run_record

RunStage = Callable[[Any, Path], None]
# Takes the runs of all stages, their arms named by stage, and the record of how they were made.
WriteReport = Callable[[list[results.Run], Mapping[str, Any], Path], str]
MODEL = "model"  # the folder of a finished stage's weights
MERGED = "merged"  # the folder of the weights that a stage with merges starts from
CHANGED = "changed"  # the same for a stage with surgery
CACHE = "cache"  # beside the folders of stages: the tokens of what they read


@dataclass(frozen=True)
class Stage:
    name: Annotated[str, folder_name]
    config: Any  # a job's configuration, or a comparison
    init_from: str = ""  # the stage whose weights it starts from; empty: its own settings
    keeps_optimizer: bool = False  # goes on with the optimizer state of that stage too
    # Stages whose models it merges and starts from; all of them began where init_from says.
    merges: tuple[str, ...] = ()
    density: Annotated[float, Range(0.0, 1.0, "a share")] = 0.0  # of TIES; 0: their mean
    surgery: SurgeryConfig | None = None  # done to the model of init_from
    # Settings that name a model folder, each with the stage whose model it is to name.
    uses: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        fields.check(self, "stages")
        if not isinstance(self.config, TrainingConfig | sweep.Sweep):
            raise ConfigError(
                f"stages.config must be a job's configuration or a Sweep, got {shown(self.config)}"
            )
        if self.keeps_optimizer and not self.init_from:
            raise ConfigError(
                f"stage {self.name!r} keeps the optimizer of the stage that init_from names, which "
                "is empty; name one"
            )

        if self.merges and not self.init_from:
            raise ConfigError(
                f"stage {self.name!r} merges {', '.join(self.merges)}, which init_from must name "
                "the start of; it is empty"
            )
        if self.surgery and (not self.init_from or self.merges or self.keeps_optimizer):
            raise ConfigError(
                f"stage {self.name!r} has surgery, which is done to the model of one stage, named "
                "by init_from, and to no optimizer; got "
                f"init_from={self.init_from!r}, merges={self.merges!r} and "
                f"keeps_optimizer={self.keeps_optimizer}"
            )

    @property
    def starts(self) -> list[str]:
        """The stages whose models it needs."""
        return [one for one in (self.init_from, *self.merges, *(x for _, x in self.uses)) if one]

    @property
    def is_made(self) -> bool:
        """Whether what it starts from is made of other stages' models."""
        return bool(self.merges or self.surgery)

    @property
    def base(self) -> TrainingConfig:
        """What all its runs share."""
        return self.config.base if isinstance(self.config, sweep.Sweep) else self.config

    @property
    def seeds(self) -> list[int] | None:
        """Seeds of a comparison of one arm at one place; None where there is one model, or none."""
        if not isinstance(self.config, sweep.Sweep) or not self.has_models:
            return None
        first = self.base.train.seed
        return list(range(first, first + self.config.seeds))

    @property
    def has_models(self) -> bool:
        """Whether another stage can start from it."""
        if not isinstance(self.config, sweep.Sweep):
            return True
        return len(self.config.arms) <= 1 and not self.config.all_axes()

    def runs(self, folder: Path) -> list[Run]:
        """Its runs, in its folder."""
        if isinstance(self.config, sweep.Sweep):
            return sweep.plan(self.config, folder)
        return [Run({}, self.config, folder / "run")]

    def models(self, folder: Path) -> list[Path]:
        """Where the weights of its runs are once it is finished, in the order of `runs`."""
        if not self.has_models:
            return []
        if self.seeds is None:
            return [folder / MODEL]
        return [folder / MODEL / f"seed{seed}" for seed in self.seeds]


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    name: Annotated[str, folder_name]
    question: str
    stages: tuple[Stage, ...]

    def __post_init__(self):
        fields.check(self, "")
        if not self.stages:
            raise ConfigError("a pipeline needs a stage or more, got none")
        earlier: dict[str, Stage] = {}
        for stage in self.stages:
            if stage.name == CACHE:
                raise ConfigError(f"no stage can be called {CACHE!r}: all stages keep tokens there")
            if stage.name in earlier:
                raise ConfigError(f"stages must have names of their own, got {stage.name!r} twice")
            for name in stage.starts:
                if name not in earlier:
                    raise ConfigError(
                        f"stage {stage.name!r} starts from {shown(name)}, which is none of "
                        f"the stages before it: {', '.join(earlier) or 'there are none'}"
                    )
                _expect_same_seeds(stage, earlier[name])
            earlier[stage.name] = stage

    def edited(self, edits: Iterable[str]) -> Self:
        """With edits of stages, STAGE.path=value; seeds=N applies to all comparisons."""
        of_stage: dict[str, list[str]] = {stage.name: [] for stage in self.stages}
        for text in edits:
            name, _, rest = text.strip().partition(".")
            if name.startswith("seeds="):
                for stage in self.stages:
                    if isinstance(stage.config, sweep.Sweep):
                        of_stage[stage.name].append(name)
                continue
            if name not in of_stage:
                raise ConfigError(
                    f"an edit of a pipeline begins with a stage, one of {', '.join(of_stage)}, as "
                    f"in {next(iter(of_stage))}.train.num_steps=50; got {shown(text)}"
                )
            of_stage[name].append(rest)
        stages = (
            dataclasses.replace(stage, config=stage.config.edited(of_stage[stage.name]))
            for stage in self.stages
        )
        return dataclasses.replace(self, stages=tuple(stages))

    def listing(self) -> str:
        """The settings of every stage."""
        return "\n\n".join(f"{one.name}:\n{one.config.listing()}" for one in self.stages)


def _expect_same_seeds(stage: Stage, start: Stage) -> None:
    if not start.has_models:
        raise ConfigError(
            f"stage {stage.name!r} starts from {start.name!r}, a comparison, which has no single "
            "model; start from a stage with one arm"
        )
    own = stage.config.seeds if isinstance(stage.config, sweep.Sweep) else 1
    first = stage.base.train.seed
    missing = [one for one in range(first, first + own) if one not in (start.seeds or [one])]
    if missing:
        raise ConfigError(
            f"stage {stage.name!r} has seeds that {start.name!r}, from which it starts, has not: "
            f"{config.some(map(str, missing))}; give both as many"
        )


def of(
    runs: Mapping[str, RunStage], write_report: WriteReport = of_stages.write
) -> Callable[[Pipeline, Path], None]:
    """run(pipeline, workdir); `runs` has the job's function for every stage by name.

    `write_report` judges the finished stages.
    """

    def run(pipeline: Pipeline, workdir: Path) -> None:
        missing = [stage.name for stage in pipeline.stages if stage.name not in runs]
        if missing:
            raise ConfigError(f"no job is given for {config.some(missing)}; pipeline.of names it")
        for stage in pipeline.stages:
            if stage.surgery:
                surgery.expect_known(stage.surgery)
        parallel.together(lambda: _check(pipeline.stages, workdir))
        for stage in pipeline.stages:
            folder = workdir / stage.name
            if parallel.everyones(_is_finished(stage, folder))[0]:
                continue
            parallel.on_first(lambda stage=stage: _make_starts(stage, pipeline.stages, workdir))
            runs[stage.name](_started(stage, pipeline.stages, workdir), folder)
            parallel.on_first(lambda stage=stage, folder=folder: _keep_models(stage, folder))
        if parallel.is_first():
            about = provenance.load(workdir / pipeline.stages[-1].name)
            about["config"] = json.loads(config.to_json(pipeline))
            print(_report(pipeline.stages, workdir, about, write_report))

    return run


def _is_finished(stage: Stage, folder: Path) -> bool:
    """Whether all its runs ended and their weights are kept."""
    are_done = all(map(run_record.is_finished, stage.runs(folder)))
    return are_done and all(one.exists() for one in stage.models(folder))


def _check(stages: Sequence[Stage], workdir: Path) -> None:
    """Raises ConfigError where what is finished is not what the settings ask for."""
    waiting: set[str] = set()
    for stage in stages:
        folder = workdir / stage.name
        again = next((one for one in stage.starts if one in waiting), None)
        if again and folder.exists():
            raise ConfigError(
                f"{folder} was made from an earlier {again!r}, which is to be trained "
                f"again; remove it too, or put {workdir / again} back"
            )
        if not _is_finished(stage, folder):
            waiting.add(stage.name)
            continue
        started = _started(stage, stages, workdir)
        allow = stage.base.resume.allow
        changes = provenance.check(folder, _record(started), allow)
        if changes:
            raise ConfigError(
                f"stage {stage.name!r} is finished with other settings ({'; '.join(changes)}); "
                f"remove {folder} to train it again"
            )


def _record(started: Any) -> dict[str, Any]:
    """What config.json of a stage's folder says; `started` is what `_started` gives."""
    base, axes = started, {}
    if isinstance(started, sweep.Sweep):
        base, axes = started.base, started.record
    return json.loads(config.to_json(initial.with_shape(base))) | axes


def _started(stage: Stage, stages: Sequence[Stage], workdir: Path) -> Any:
    """The settings of `stage`, with what it takes from the stage that it starts from."""
    by_name = {one.name: one for one in stages}
    # Stages that read the same text share its tokens.
    edits = [] if stage.base.data.cache_dir else [f"data.cache_dir={workdir / CACHE}"]
    edits += [f"{setting}={_model_of(by_name[name], workdir)}" for setting, name in stage.uses]
    if not stage.init_from:
        return stage.config.edited(edits)
    start = by_name[stage.init_from]
    folder = workdir / start.name
    model, seed = start.models(folder)[0], "{seed}" if start.seeds else ""
    source = _made_for(stage, workdir) if stage.is_made else _model_of(start, workdir)
    edits.append(f"train.init_from={source}")
    if stage.keeps_optimizer:
        run = start.runs(folder)[0].directory
        name = run.name.removesuffix(f"seed{start.base.train.seed}") + f"seed{seed}"
        edits.append(f"train.optimizer_from={run.with_name(name) if seed else run}")
    if (model / "tokenizer.json").exists():
        edits.append(f"data.tokenizer={model / 'tokenizer.json'}")
    return stage.config.edited(edits)


def _model_of(start: Stage, workdir: Path) -> Path:
    """The model folder of a stage; of a comparison with seeds, {seed} stands for each."""
    folder = workdir / start.name
    return folder / MODEL / "seed{seed}" if start.seeds else start.models(folder)[0]


def _made_for(stage: Stage, workdir: Path) -> Path:
    """The folder of what a stage starts from; in a comparison {seed} in it stands for each seed."""
    folder = workdir / stage.name / (MERGED if stage.merges else CHANGED)
    return folder / "seed{seed}" if isinstance(stage.config, sweep.Sweep) else folder


def _make_starts(stage: Stage, stages: Sequence[Stage], workdir: Path) -> None:
    """Makes the models that a stage of merges or of surgery starts from."""
    if not stage.is_made:
        return
    by_name = {one.name: one for one in stages}
    of_stages = [_model_of(by_name[one], workdir) for one in (stage.init_from, *stage.merges)]
    first = stage.base.train.seed
    for seed in range(first, first + getattr(stage.config, "seeds", 1)):
        target, base, *models = (
            Path(str(one).replace("{seed}", str(seed)))
            for one in (_made_for(stage, workdir), *of_stages)
        )
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if stage.surgery:
            text = stage.base.data
            surgery.make(stage.surgery, base, target, text=text, report=events.show)
        else:
            ties = {"base": base, "density": stage.density} if stage.density else {}
            merge.merge_folders(models, target, **ties)


def _keep_models(stage: Stage, folder: Path) -> None:
    """Makes model folders of the last checkpoints of a stage's runs."""
    models = stage.models(folder)
    for one, model in zip(stage.runs(folder) if models else [], models, strict=True):
        if not model.exists():
            model.parent.mkdir(exist_ok=True)
            run_folder.import_run(one.directory, model)


def _report(
    stages: Sequence[Stage], workdir: Path, about: dict[str, Any], write_report: WriteReport
) -> str:
    """Writes report.html of all stages; returns the table and the verdict as text."""
    found = [
        of_stages.named(results.load(one.directory), stage.name)
        for stage in stages
        for one in stage.runs(workdir / stage.name)
    ]
    path = workdir / "report.html"
    return f"{write_report(found, about, path)}\n\nReport: {path}"
