"""Conversations with images; `media_chats` says what a record holds.

An image is a PNG or JPEG file beside the records, {"type": "image", "path": "a.png"}, or in them,
{"type": "image_url", "image_url": {"url": "data:..."}}. The images of a conversation share the room
of a row; large ones are made smaller to fit it.
"""

import pathlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from kanana_jax.batch import Images
from kanana_jax.config import DataConfig, VisionConfig
from kanana_jax.data import images, media_chats, media_documents
from kanana_jax.data.images import ImageError, patches
from kanana_jax.data.media_chats import Chat, MediaChats, Medium
from kanana_jax.data.whole_documents import WholeDocuments


def read(
    cfg: DataConfig, cache_dir: pathlib.Path, report: Callable[[str], None] = lambda line: None
) -> MediaChats:
    """See `media_chats.read`."""
    return media_chats.read(_IMAGES, cfg, cache_dir, report)


def documents(found: MediaChats, shape: VisionConfig, cfg: DataConfig) -> WholeDocuments:
    """The batches of these conversations. DataError where a row has no room for one of them."""
    return media_documents.documents(found, _Room(shape, cfg.image_patches), cfg.seq_len)


def _content(value: Any) -> bytes:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str):
        raise ImageError(f"expected a url, got {type(url).__name__}")
    return images.data_of_url(url)


_IMAGES = Medium(
    name="image",
    embedded="image_url",
    mark=images.MARK,
    content_of=_content,
    size_of=lambda content: images.read(content).shape[:2],
    error=ImageError,
)


class _Room(NamedTuple):
    """The room of a row, and the encoder that reads it."""

    shape: VisionConfig
    image_patches: int

    def spans(self, one: Chat) -> list[range]:
        return media_documents.following(self._counts(one))

    def num_slots(self, one: Chat) -> int:
        return sum(self._counts(one))

    def used(self, one: Chat) -> Fraction:
        return Fraction(self.num_slots(one) * self.shape.merge_size**2, self.image_patches)

    def row(self, chats: Sequence[Chat], slots_S: Int32[np.ndarray, "S"]) -> Images:
        of_row = []
        for one in chats:
            for each in one.attachments:
                pixels = images.read(each.read(), num_channels=self.shape.num_channels)
                fitted = images.fitted(self.shape, pixels, self._of_image(one))
                of_row.append(patches.of_image(self.shape, fitted))
        return patches.row_of(of_row, self.image_patches, slots_S, self.shape.patch_values)

    def _counts(self, one: Chat) -> list[int]:
        most = self._of_image(one)
        counts = []
        for each in one.attachments:
            height, width = each.size
            counts.append(images.num_slots(self.shape, (height, width), most))
        return counts

    def _of_image(self, one: Chat) -> int:
        """Patches that each image of a conversation may have."""
        return self.image_patches // max(len(one.attachments), 1)
