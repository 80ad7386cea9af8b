"""Next-token training on text: from nothing, or on from the weights of a model folder."""

from collections.abc import Sequence
from dataclasses import dataclass

from kanana_jax import config, data, model
from kanana_jax.batch import Batch
from kanana_jax.jobs import heldout, specialisation, training
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


def _evaluators(
    corpus: data.Corpus, cfg: config.DataConfig, train: config.TrainConfig, built: training.Built
) -> tuple[fit.Evaluator, ...]:
    batches = data.heldout_batches(corpus, cfg, train.eval_batches, rows=built.rows(cfg.batch_size))
    sources = heldout.Sources(
        names=corpus.names, source_S=data.heldout_sources(corpus, cfg, train.eval_batches)
    )
    given = batches, cfg.batch_size, train.eval_interval_steps, built, sources
    return (heldout.bits_per_byte(*given), *specialisation.evaluators(*given))


JOB = training.Job(
    objective=training.next_token,
    read=data.read_text,
    source=TextSource,
    evaluators=_evaluators,
)
run = training.of(JOB)
