"""Fine-tuning on conversations with images: loss on the assistant's tokens only.

`kanana_jax.data.images.chats` says what a line holds. The weights to start from are
train.init_from's, or fresh ones; optimizer.frozen says which parts of them stay.
"""

from dataclasses import dataclass

from kanana_jax import config
from kanana_jax.data.images import chats
from kanana_jax.data.media_chats import MediaChats
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs import media_chats, training


@dataclass(frozen=True, kw_only=True)
class Config(config.TrainingConfig):
    """The settings of every job that trains; data.paths name files of conversations."""

    def __post_init__(self):
        super().__post_init__()
        if self.model.vision is None or not self.data.image_patches:
            raise config.ConfigError(
                "conversations with images need model.vision and data.image_patches, got "
                f"{'none' if self.model.vision is None else 'an encoder'} and "
                f"{self.data.image_patches}; set both"
            )


def _documents(
    corpus: MediaChats, shape: config.ModelConfig, cfg: config.DataConfig
) -> WholeDocuments:
    assert shape.vision is not None  # Config has checked it
    return chats.documents(corpus, shape.vision, cfg)


JOB = media_chats.job(chats.read, _documents)
run = training.of(JOB)
