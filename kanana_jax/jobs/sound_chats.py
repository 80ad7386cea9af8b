"""Fine-tuning on conversations with sounds: loss on the assistant's tokens only.

`kanana_jax.speech.chats` says what a line holds. The weights to start from are train.init_from's,
or fresh ones; optimizer.frozen says which parts of them stay.
"""

from dataclasses import dataclass

from kanana_jax import config
from kanana_jax.data.media_chats import MediaChats
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs import media_chats, training
from kanana_jax.speech import chats


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
        chats.check(self.model.audio)


def _documents(
    corpus: MediaChats, shape: config.ModelConfig, cfg: config.DataConfig
) -> WholeDocuments:
    assert shape.audio is not None  # Config has checked it
    return chats.documents(corpus, shape.audio, cfg)


JOB = media_chats.job(chats.read, _documents)
run = training.of(JOB)
