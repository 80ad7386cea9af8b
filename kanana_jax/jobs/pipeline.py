"""Jobs in turn, each of which may start from the weights of an earlier one.

    run = pipeline.of({"base": pretrain.run, "chat": sft.run})

    def experiment():
        return pipeline.Pipeline(
            name="small", question="...",
            stages=(
                pipeline.Stage("base", pretrain.Config(...)),
                pipeline.Stage("chat", sft.Config(...), init_from="base"),
            ),
        )

Each stage has a folder of its own in the working directory; its last checkpoint becomes the model
folder <stage>/model, whose tokenizer the next stage reads with. Finished stages are skipped. On a
command line chat.train.num_steps=50 edits a stage.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from kanana_jax import config, parallel
from kanana_jax.config import fields
from kanana_jax.config.fields import ConfigError, shown
from kanana_jax.config.paths import folder_name
from kanana_jax.weights import run_folder

Run = Callable[[config.TrainingConfig, Path], None]
MODEL = "model"  # the folder of a finished stage's weights


@dataclass(frozen=True)
class Stage:
    name: Annotated[str, folder_name]
    config: config.TrainingConfig
    init_from: str = ""  # the stage whose weights it starts from; empty: its own settings

    def __post_init__(self):
        fields.check(self, "stages")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    name: Annotated[str, folder_name]
    question: str
    stages: tuple[Stage, ...]

    def __post_init__(self):
        fields.check(self, "")
        if not self.stages:
            raise ConfigError("a pipeline needs a stage or more, got none")
        earlier: list[str] = []
        for stage in self.stages:
            if stage.name in earlier:
                raise ConfigError(f"stages must have names of their own, got {stage.name!r} twice")
            if stage.init_from and stage.init_from not in earlier:
                raise ConfigError(
                    f"stage {stage.name!r} starts from {shown(stage.init_from)}, which is none of "
                    f"the stages before it: {', '.join(earlier) or 'there are none'}"
                )
            earlier.append(stage.name)

    def edited(self, edits: Iterable[str]) -> Self:
        """With edits of stages, STAGE.path=value."""
        of_stage: dict[str, list[str]] = {stage.name: [] for stage in self.stages}
        for text in edits:
            name, _, rest = text.strip().partition(".")
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


def of(runs: Mapping[str, Run]) -> Callable[[Pipeline, Path], None]:
    """run(pipeline, workdir); `runs` has the job's function for every stage by name."""

    def run(pipeline: Pipeline, workdir: Path) -> None:
        missing = [stage.name for stage in pipeline.stages if stage.name not in runs]
        if missing:
            raise ConfigError(f"no job is given for {config.some(missing)}; pipeline.of names it")
        for stage in pipeline.stages:
            folder = workdir / stage.name
            if parallel.everyones((folder / MODEL).exists())[0]:
                continue
            runs[stage.name](_started(stage, workdir), folder)
            parallel.on_first(
                lambda folder=folder: run_folder.import_run(folder / "run", folder / MODEL)
            )

    return run


def _started(stage: Stage, workdir: Path) -> config.TrainingConfig:
    """The settings of `stage`, with the weights and tokenizer of the stage that it starts from."""
    if not stage.init_from:
        return stage.config
    model = workdir / stage.init_from / MODEL
    edits = [f"train.init_from={model}"]
    if (model / "tokenizer.json").exists():
        edits.append(f"data.tokenizer={model / 'tokenizer.json'}")
    return stage.config.edited(edits)
