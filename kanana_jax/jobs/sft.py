"""Supervised fine-tuning: conversations in JSON lines, loss on the assistant's tokens only.

The weights to start from are train.init_from's, or fresh ones. `kanana_jax.data.conversations` says
what a line holds.
"""

from dataclasses import dataclass
from pathlib import Path

from kanana_jax import config
from kanana_jax.data import conversations
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs import heldout, training
from kanana_jax.jobs.packed import PackedSource
from kanana_jax.objectives import NextToken
from kanana_jax.train import fit


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains; data.paths name files of conversations."""


def _objective(cfg: Config) -> NextToken:
    return NextToken(z_weight=cfg.train.z_loss_weight)


def _source(cfg: Config, corpus: WholeDocuments, built: training.Built) -> PackedSource:
    return PackedSource(corpus, cfg.data, built.rows)


def _evaluators(
    cfg: Config, corpus: WholeDocuments, built: training.Built
) -> tuple[fit.Evaluator, ...]:
    """Bits per byte of the assistant's held-out text."""
    batches = corpus.heldout_batches(cfg.data, cfg.train.eval_batches, built.rows)
    every = cfg.train.eval_interval_steps
    return (heldout.bits_per_byte(batches, cfg.data.batch_size, every, built),)


JOB = training.Job(
    objective=_objective, read=conversations.read, source=_source, evaluators=_evaluators
)


def run(cfg: Config, workdir: Path) -> None:
    """Trains `cfg` in `workdir`, or continues it, and writes its report."""
    training.run(JOB, cfg, workdir)
