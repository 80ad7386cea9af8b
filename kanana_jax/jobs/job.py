"""What a job that trains is made of, and what it is given."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax

from kanana_jax import config, data, model, parallel
from kanana_jax.jobs import curves
from kanana_jax.objectives import Objective
from kanana_jax.report import results
from kanana_jax.report.canvas import Picture
from kanana_jax.report.tables import Column
from kanana_jax.train import fit, step_functions


class Corpus(Protocol):
    """Data ready to be trained on."""

    @property
    def tokenizer(self) -> data.Tokenizer: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def num_skipped(self) -> int: ...


class Text(Protocol):
    """Data that was read and found good; `open` writes what is kept of it."""

    @property
    def tokenizer(self) -> data.Tokenizer: ...
    @property
    def digest(self) -> str: ...
    @property
    def open(self) -> Callable[[], Any]: ...


class Start(NamedTuple):
    """What is known of a run before its first step."""

    first_weights: Callable[[], model.Weights]  # makes them anew at each call
    cache_dir: Path  # of its data
    report: Callable[[str, str], None]  # an event: its kind and what happened


class Built(NamedTuple):
    """What is needed besides settings and corpus to make sources and evaluators."""

    mesh: jax.sharding.Mesh
    steps: step_functions.Steps
    objective: Objective
    frozen: Mapping[str, model.Weights] = {}
    own: Any = None  # what `Job.own` gives of the settings
    directory: Path = Path()  # of the run
    start: Start | None = None  # of the run, once it is about to begin

    def rows(self, batch_size: int) -> list[int]:
        """The rows of a batch that this process loads."""
        return parallel.local_rows(self.mesh, batch_size)

    def place(self, batch: Any, batch_size: int) -> Any:
        return parallel.shard_batch(self.mesh, batch, batch_size)


class Job(NamedTuple):
    """What a job that trains is made of. `objective` takes its whole configuration."""

    objective: Callable[[Any], Objective]
    read: Callable[[config.DataConfig, Path, Callable[[str], None]], Text]
    # Takes a corpus, its settings, and the stages in which batches are asked for.
    source: Callable[[Any, config.DataConfig, Sequence[data.Stage], "Built"], fit.Source]
    evaluators: Callable[
        [Any, config.DataConfig, config.TrainConfig, "Built"], Sequence[fit.Evaluator]
    ]
    pictures: tuple[Picture, ...] = curves.TRAINING
    columns: tuple[Column, ...] = curves.COLUMNS  # of the table of a single run
    headline: Callable[[results.Run], str] = curves.headline
    # The settings that this job alone has, for its source and its evaluators.
    own: Callable[[Any], Any] = lambda cfg: None
    # Raises ConfigError where a corpus, now read, is not enough for the settings of a run.
    check: Callable[[Any, Any], None] = lambda corpus, cfg: None
    # Process 0 calls it before runs train, with a corpus and the folders of the runs that read it.
    begin: Callable[[Any, Sequence[Path]], None] = lambda corpus, folders: None
    # The corpus with the columns that the objective reads.
    prepared: Callable[[Any, config.DataConfig, "Built", "Start"], Any] = lambda corpus, *others: (
        corpus
    )
    # Weights that are not trained and that the step reads, by name.
    frozen: Callable[["Built", "Start"], Mapping[str, model.Weights]] = lambda built, start: {}
    # The shape of a live teacher, from the whole configuration; raises where it cannot teach.
    teacher: Callable[[Any], config.ModelConfig | None] = lambda cfg: None


def stored(
    make: Callable[[Any, config.DataConfig, Sequence[data.Stage]], fit.Source],
) -> Callable[[Any, config.DataConfig, Sequence[data.Stage], Built], fit.Source]:
    """The source of a job whose batches come from its corpus alone."""
    return lambda corpus, cfg, stages, built: make(corpus, cfg, stages)


def measuring(
    job: Job,
    make: Callable[[Any, config.DataConfig, config.TrainConfig, Built], fit.Evaluator],
) -> Job:
    """`job` with one more evaluator, made from what its own are made from."""

    def evaluators(
        corpus: Any, cfg: config.DataConfig, train: config.TrainConfig, built: Built
    ) -> tuple[fit.Evaluator, ...]:
        found = job.evaluators(corpus, cfg, train, built)
        return (*found, make(corpus, cfg, train, built))

    return job._replace(evaluators=evaluators)
