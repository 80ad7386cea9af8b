"""Next-token training on text: from nothing, or on from the weights of a model folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kanana_jax import config, data, model
from kanana_jax.batch import Batch
from kanana_jax.jobs import heldout, training
from kanana_jax.objectives import NextToken
from kanana_jax.train import fit


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains, and no others."""


class TextSource:
    """Batches of a corpus, read ahead while they are asked for in order."""

    def __init__(self, corpus: data.Corpus, cfg: config.DataConfig, rows: Sequence[int]):
        self._corpus, self._cfg, self._rows = corpus, cfg, rows
        self._next, self._batches = -1, iter(())
        self.fingerprint = corpus.fingerprint

    def batch(self, number: int, weights: model.Weights) -> Batch:
        if number != self._next:
            self._batches = data.train_batches(
                self._corpus, self._cfg, start_step=number, rows=self._rows
            )
        self._next = number + 1
        return next(self._batches)


def _objective(cfg: Config) -> NextToken:
    return NextToken(z_weight=cfg.train.z_loss_weight)


def _source(cfg: Config, corpus: data.Corpus, built: training.Built) -> TextSource:
    return TextSource(corpus, cfg.data, built.rows)


def _evaluators(
    cfg: Config, corpus: data.Corpus, built: training.Built
) -> tuple[fit.Evaluator, ...]:
    batches = data.heldout_batches(corpus, cfg.data, cfg.train.eval_batches, rows=built.rows)
    return (
        heldout.bits_per_byte(batches, cfg.data.batch_size, cfg.train.eval_interval_steps, built),
    )


JOB = training.Job(
    objective=_objective,
    read=data.read_text,
    source=_source,
    evaluators=_evaluators,
)


def run(cfg: Config, workdir: Path) -> None:
    """Trains `cfg` in `workdir`, or continues it, and writes its report."""
    training.run(JOB, cfg, workdir)
