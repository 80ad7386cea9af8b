"""Batches of conversations with images or sounds, for the encoder that reads them.

Each batch decodes them anew, so no more than one batch of them is in memory; files that a record
holds stay there as they are. An example's length is its share of a row's room, be it positions or
anything else that fills a row, so a row with positions for its examples has room for the rest.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np
from jaxtyping import Int32, Int64

from kanana_jax.batch import Features
from kanana_jax.data import inserted
from kanana_jax.data.errors import DataError
from kanana_jax.data.media_chats import Chat, MediaChats
from kanana_jax.data.whole_documents import Examples, WholeDocuments


class Room(Protocol):
    """What a row has room for besides positions, and the encoder that reads it. Hashable."""

    def spans(self, one: Chat) -> list[range]:
        """The slots of each attachment of a conversation, in a row that holds it alone.

        DataError where a row has no room for them.
        """
        ...

    def used(self, one: Chat) -> Fraction:
        """The share of a row's room that a conversation takes."""
        ...

    def row(self, chats: Sequence[Chat], slots_S: Int32[np.ndarray, "S"]) -> Features:
        """What the conversations of one row hold; `slots_S` are the slots at its positions."""
        ...

    def num_slots(self, one: Chat) -> int:
        """By how much the slots of the next conversation in a row are shifted."""
        ...


@functools.lru_cache(maxsize=2)
def documents(found: MediaChats, room: Room, seq_len: int) -> WholeDocuments:
    """The batches of these conversations. DataError where a row has no room for one of them."""
    encoded = [_encoded(found, one, room, seq_len) for one in found.chats]
    dtype = np.uint16 if found.vocab_size <= 2**16 else np.uint32
    slots_T = np.concatenate([one.slots for one in encoded])
    all_examples = Examples(
        tokens_T=np.concatenate([np.array(one.ids, dtype) for one in encoded]),
        origin_T=np.concatenate([np.array(one.origins, np.uint8) for one in encoded]),
        ends_G=np.cumsum([len(one.ids) for one in encoded], dtype=np.int64),
        source_N=np.array([one.source for one in found.chats], np.int32),
        is_heldout_N=np.array(found.is_heldout),
        least_N=np.array([math.ceil(room.used(one) * seq_len) for one in found.chats], np.int64),
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


def _encoded(found: MediaChats, one: Chat, room: Room, seq_len: int) -> inserted.Encoded:
    spans = room.spans(one)
    made = inserted.encode(found.format, found.tokenizer, one.pieces, spans, found.medium.mark)
    if len(made.ids) - 1 > seq_len:
        name = found.medium.name
        raise DataError(
            f"{one.where}: expected at most data.seq_len = {seq_len} tokens to predict, "
            f"{name}s included, got {len(made.ids) - 1}; raise data.seq_len, or make the "
            f"{name}s smaller."
        )
    return made


def _features(
    found: MediaChats,
    room: Room,
    all_examples: Examples,
    slots_T: Int32[np.ndarray, "T"],
    row_N: Int64[np.ndarray, "N"],
    seq_len: int,
) -> Features:
    """What the conversations of a row hold, and where it stands."""
    chats = [found.chats[n] for n in row_N.tolist()]
    slots_S, begin, first = np.full(seq_len, -1, np.int32), 0, 0
    for n, one in zip(row_N.tolist(), chats, strict=True):
        (place,) = all_examples.segments(n)
        here = slots_T[place][:-1]
        slots_S[begin : begin + len(here)] = np.where(here >= 0, here + first, -1)
        begin += len(here)
        first += room.num_slots(one)
    return room.row(chats, slots_S)


def following(counts: Sequence[int]) -> list[range]:
    """Ranges of slots, one after the other, of the sizes `counts`."""
    return [range(*pair) for pair in itertools.pairwise(np.cumsum([0, *counts]).tolist())]
