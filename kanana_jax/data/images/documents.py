"""Batches of conversations with images, for the encoder that reads them.

A batch decodes its images anew, so no more than a batch of them is in memory as pixels; files that
URLs hold stay there as they are. The images of a conversation share the room of a row, by which
large ones are made smaller. An example counts as long as its share of either room is, of positions
or of patches, so a row that has positions for its examples has room for their images.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from kanana_jax.batch import Images
from kanana_jax.config import DataConfig, VisionConfig
from kanana_jax.data.errors import DataError
from kanana_jax.data.images import encoding, patches
from kanana_jax.data.images import files as image_files
from kanana_jax.data.images.chats import Chat, ImageChats
from kanana_jax.data.whole_documents import Examples, WholeDocuments


class _Room(NamedTuple):
    """Of a row, and the encoder that reads it."""

    shape: VisionConfig
    seq_len: int
    image_patches: int

    def of_image(self, one: Chat) -> int:
        """Patches that each image of a conversation may have."""
        return self.image_patches // max(len(one.pictures), 1)


def documents(found: ImageChats, shape: VisionConfig, cfg: DataConfig) -> WholeDocuments:
    """Their batches. DataError where a row has not room for one of them."""
    return _documents(found, _Room(shape, cfg.seq_len, cfg.image_patches))


@functools.lru_cache(maxsize=2)
def _documents(found: ImageChats, room: _Room) -> WholeDocuments:
    encoded = [_encoded(found, one, room) for one in found.chats]
    dtype = np.uint16 if found.vocab_size <= 2**16 else np.uint32
    num_patches_N = np.array([one.slots.max(initial=-1) + 1 for one in encoded], np.int64)
    num_patches_N *= room.shape.merge_size**2
    slots_T = np.concatenate([one.slots for one in encoded])
    all_examples = Examples(
        tokens_T=np.concatenate([np.array(one.ids, dtype) for one in encoded]),
        origin_T=np.concatenate([np.array(one.origins, np.uint8) for one in encoded]),
        ends_G=np.cumsum([len(one.ids) for one in encoded], dtype=np.int64),
        source_N=np.array([one.source for one in found.chats], np.int32),
        is_heldout_N=np.array(found.is_heldout),
        least_N=-(-num_patches_N * room.seq_len // room.image_patches),
    )
    return WholeDocuments(
        names=found.names,
        kind="conversations",
        format=found.format,
        tokenizer=found.tokenizer,
        examples=all_examples,
        fingerprint=found.digest,
        num_skipped=found.num_skipped,
        features=functools.partial(_features, found, room, all_examples, slots_T),
    )


def _encoded(found: ImageChats, one: Chat, room: _Room) -> encoding.EncodedImages:
    most = room.of_image(one)
    counts = [image_files.num_slots(room.shape, each.sides, most) for each in one.pictures]
    spans = [range(*pair) for pair in itertools.pairwise(np.cumsum([0, *counts]).tolist())]
    made = encoding.encode(found.format, found.tokenizer, one.pieces, spans)
    if len(made.ids) - 1 > room.seq_len:
        raise DataError(
            f"{one.where}: expected at most data.seq_len = {room.seq_len} tokens to predict, "
            f"images included, got {len(made.ids) - 1}; raise data.seq_len, or lower "
            "data.image_patches, by which images are made smaller."
        )
    return made


def _features(
    found: ImageChats,
    room: _Room,
    all_examples: Examples,
    slots_T: Int32[np.ndarray, "T"],
    row_N: Int64[np.ndarray, "N"],
    seq_len: int,
) -> Images:
    """The images of a row, and where they stand."""
    shape, of_row = room.shape, []
    slots_S, begin, first = np.full(seq_len, -1, np.int32), 0, 0
    for n in row_N.tolist():
        (place,) = all_examples.segments(n)
        here = slots_T[place][:-1]
        end = begin + len(here)
        slots_S[begin:end] = np.where(here >= 0, here + first, -1)
        begin = end
        for one in found.chats[n].pictures:
            pixels = image_files.read(one.read(), num_channels=shape.num_channels)
            fitted = image_files.fitted(shape, pixels, room.of_image(found.chats[n]))
            of_row.append(patches.of_image(shape, fitted))
            first += of_row[-1].num_slots(shape.merge_size)
    return patches.row_of(of_row, room.image_patches, slots_S, shape.patch_values)
