"""Supervised fine-tuning: conversations in JSON lines, loss on the assistant's tokens only.

The weights to start from are train.init_from's, or fresh ones. `kanana_jax.data.conversations` says
what a line holds.
"""

from dataclasses import dataclass

from kanana_jax import config
from kanana_jax.data import conversations
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs import heldout, training
from kanana_jax.jobs.packed import PackedSource
from kanana_jax.train import fit


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains; data.paths name files of conversations."""


def _evaluators(
    corpus: WholeDocuments,
    cfg: config.DataConfig,
    train: config.TrainConfig,
    built: training.Built,
) -> tuple[fit.Evaluator, ...]:
    """Bits per byte of the assistant's held-out text."""
    batches = corpus.heldout_batches(cfg, train.eval_batches, built.rows(cfg.batch_size))
    placed = [built.place(batch, cfg.batch_size) for batch in batches]
    return (heldout.bits_per_byte(placed, train.eval_interval_steps, built),)


JOB = training.Job(
    objective=training.next_token,
    read=conversations.read,
    source=training.stored(PackedSource),
    evaluators=_evaluators,
)
run = training.of(JOB)
