"""Fine-tuning on conversations with sounds: loss on the assistant's tokens only.

`kanana_jax.speech.chats` says what a line holds. The weights to start from are
train.init_from's, or fresh ones; optimizer.frozen says which parts of them stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kanana_jax import config, data
from kanana_jax.data.media_chats import MediaChats
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs import buckets, training
from kanana_jax.jobs.chats import keep_template
from kanana_jax.jobs.packed import PackedSource
from kanana_jax.speech import chats as sound_chats
from kanana_jax.train import fit


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains; data.paths name files of conversations."""

    def __post_init__(self):
        super().__post_init__()
        if self.model.audio is None or not self.data.sounds:
            raise config.ConfigError(
                "conversations with sounds need model.audio and data.sounds, got "
                f"{'none' if self.model.audio is None else 'an encoder'} and {self.data.sounds}; "
                "set both"
            )
        sound_chats.check(self.model.audio)


def _documents(corpus: MediaChats, cfg: config.DataConfig, built: training.Built) -> WholeDocuments:
    shape = built.steps.cfg.model.audio
    assert shape is not None  # Config has checked it
    return sound_chats.documents(corpus, shape, cfg)


def _source(
    corpus: MediaChats,
    cfg: config.DataConfig,
    stages: Sequence[data.Stage],
    built: training.Built,
) -> fit.Source:
    return PackedSource(_documents(corpus, cfg, built), cfg, stages)


def _evaluators(
    corpus: MediaChats, cfg: config.DataConfig, train: config.TrainConfig, built: training.Built
) -> tuple[fit.Evaluator, ...]:
    return buckets.evaluators(_documents(corpus, cfg, built), cfg, train, built)


JOB = training.Job(
    objective=training.next_token,
    read=sound_chats.read,
    source=_source,
    evaluators=_evaluators,
    begin=keep_template,
)
run = training.of(JOB)
