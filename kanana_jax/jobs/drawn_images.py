"""Training on tasks about images that are drawn on the fly; nothing is stored.

A batch is a function of the seed and its number, so a run goes on where it stopped. Other processes
draw batches ahead; how many there are changes no batch.
"""

import concurrent.futures
import multiprocessing
import operator
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kanana_jax import config, data, model
from kanana_jax.batch import Batch
from kanana_jax.data.tokenizer import Tokenizer, byte_tokenizer
from kanana_jax.jobs import heldout, image_answers, training
from kanana_jax.rollouts.tasks.images import rows
from kanana_jax.rollouts.tasks.images.rows import Recipe
from kanana_jax.train import fit

_AHEAD = 2  # batches for each process


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains, and which images it trains on."""

    images: config.ImageTasksConfig = config.ImageTasksConfig()  # noqa: RUF009

    def __post_init__(self):
        super().__post_init__()
        if self.model.vision is None or not self.data.image_patches:
            raise config.ConfigError(
                "images need model.vision and data.image_patches, got "
                f"{'none' if self.model.vision is None else 'an encoder'} and "
                f"{self.data.image_patches}; set both"
            )
        if self.data.paths:
            raise config.ConfigError(
                f"data.paths must be empty where images are drawn, got {self.data.paths}"
            )


class Drawn:
    """What stands for a corpus: only the tokenizer, because all else is in the settings."""

    fingerprint = digest = "images 1"  # another number where other images are drawn
    num_skipped = 0

    def __init__(self):
        self.tokenizer: Tokenizer = byte_tokenizer()

    def open(self) -> "Drawn":
        return self


def _read(cfg: config.DataConfig, cache_dir: Path, report: Callable[[str], None]) -> Drawn:
    return Drawn()


class DrawnSource:
    """Batches, which `num_workers` processes draw ahead in order.

    Processes end with the source. The number of batches is not known: where a run goes back, the
    batches that it leaves out are made up for after its last one.
    """

    def __init__(self, recipe: Recipe, of_process: Sequence[int] | None):
        self._recipe = recipe
        self._rows = [*range(recipe.data.batch_size)] if of_process is None else [*of_process]
        self._waiting: dict[int, concurrent.futures.Future[Batch]] = {}
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        self.fingerprint = Drawn.fingerprint

    def batch(self, number: int, weights: model.Weights) -> Batch:
        num_workers = self._recipe.tasks.num_workers
        if not num_workers:
            return rows.batch(self._recipe, number, self._rows)
        if self._pool is None:
            # Processes start afresh: a copy of one that uses an accelerator could not go on.
            context = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(num_workers, context)
            weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        for one in {*range(number, number + _AHEAD * num_workers)} - self._waiting.keys():
            self._waiting[one] = self._pool.submit(rows.batch, self._recipe, one, self._rows)
        return self._waiting.pop(number).result()


def _recipe(cfg: config.DataConfig, built: training.Built) -> Recipe:
    vision = built.steps.cfg.model.vision
    assert vision is not None  # Config has checked it
    return Recipe(tasks=built.own, vision=vision, data=cfg)


def _source(
    corpus: Drawn, cfg: config.DataConfig, stages: Sequence[data.Stage], built: training.Built
) -> fit.Source:
    (only,) = stages
    return DrawnSource(_recipe(cfg, built), only.rows)


def _evaluators(
    corpus: Drawn, cfg: config.DataConfig, train: config.TrainConfig, built: training.Built
) -> tuple[fit.Evaluator, ...]:
    recipe = _recipe(cfg.with_seed(0), built)
    of_process = built.rows(cfg.batch_size)
    batches = [
        built.place(rows.batch(recipe, number, of_process, heldout=True), cfg.batch_size)
        for number in range(train.eval_batches)
    ]
    every, num_rows = train.eval_interval_steps, train.eval_batches * cfg.batch_size
    sources = heldout.Sources(names=("images",), source_S=np.zeros(num_rows, np.int64))
    return (
        heldout.bits_per_byte(batches, every, built, sources),
        image_answers.evaluator(recipe, built, train.num_steps),
    )


JOB = training.Job(
    objective=training.next_token,
    read=_read,
    source=_source,
    evaluators=_evaluators,
    own=operator.attrgetter("images"),
)
run = training.of(JOB)
