"""Supervised fine-tuning: conversations in JSON lines, loss on the assistant's tokens only.

The weights to start from are train.init_from's, or fresh ones. `kanana_jax.data.conversations` says
what a line holds.
"""

from dataclasses import dataclass

from kanana_jax import config
from kanana_jax.data import conversations
from kanana_jax.jobs import buckets, chats, training
from kanana_jax.jobs.packed import PackedSource


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains; data.paths name files of conversations."""


JOB = training.Job(
    objective=training.next_token,
    read=conversations.read,
    source=training.stored(PackedSource),
    evaluators=buckets.evaluators,
    begin=chats.begin,
)
run = training.of(JOB)
