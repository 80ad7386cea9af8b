"""Next-token training on text: from scratch, or from the weights of a model folder.

A run may have stages, see `config.StagedConfig`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kanana_jax import config, data, model
from kanana_jax.batch import Batch
from kanana_jax.jobs import heldout, specialisation, training
from kanana_jax.train import fit


@dataclass(frozen=True, kw_only=True)
class Config(config.StagedConfig):
    """The settings of every job that trains, and the stages of the run."""


class TextSource:
    """Batches of a corpus, read ahead while they are asked for in order."""

    def __init__(self, corpus: data.Corpus, cfg: config.DataConfig, stages: Sequence[data.Stage]):
        self._corpus, self._cfg, self._stages = corpus, cfg, stages
        self._next, self._batches = -1, iter(())
        self.fingerprint = corpus.fingerprint

    def batch(self, number: int, weights: model.Weights) -> Batch:
        if number != self._next:
            self._batches = data.train_batches(
                self._corpus, self._cfg, start_step=number, stages=self._stages
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
    placed = [built.place(batch, cfg.batch_size) for batch in batches]
    given = placed, train.eval_interval_steps, built, sources
    return (heldout.bits_per_byte(*given), *specialisation.evaluators(*given))


def _check(corpus: data.Corpus, cfg: Config) -> None:
    """Raises ConfigError where the stages read a source more often than max_epochs."""
    if not cfg.max_epochs:
        return
    epochs = data.num_epochs(corpus, cfg.data, training.data_stages(cfg))
    dry = [
        f"{name} {number:.2f} times"
        for name, number in zip(corpus.names, epochs, strict=True)
        if number > cfg.max_epochs
    ]
    if dry:
        raise config.ConfigError(
            f"max_epochs = {cfg.max_epochs:g} is how often a source may be read, and the run would "
            f"read {config.some(dry)}; give it less weight or fewer tokens, or raise max_epochs"
        )


JOB = training.Job(
    objective=training.next_token,
    read=data.read_text,
    source=training.stored(TextSource),
    evaluators=_evaluators,
    check=_check,
)
run = training.of(JOB)
