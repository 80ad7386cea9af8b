"""Conversations as ids, and the slots of images or sounds that stand among them.

    "user: " "<|image|>" "sum?"   ->   ids of "user: ", one placeholder for each slot, ids of "sum?"

A mark in the text of a user or a tool stands for an image or a sound. `spans` give the slots of
each mark; two marks may name the same slots, which are then read again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from kanana_jax.data import chat
from kanana_jax.data.chat import Origin, Piece
from kanana_jax.data.errors import DataError
from kanana_jax.data.tokenizer import Tokenizer

PLACEHOLDER = 0  # an id; the model never reads its embedding
_MARKED = (Origin.USER, Origin.TOOL)


class Encoded(NamedTuple):
    """Ids, the origin of each, and the slot at its place; -1 for a token."""

    ids: list[int]
    origins: list[Origin]
    slots: Int32[np.ndarray, "T"]


def encode(
    fmt: chat.Format,
    tokenizer: Tokenizer,
    pieces: Sequence[Piece],
    spans: Sequence[range],
    mark: str,
) -> Encoded:
    """The ids of a conversation from BOS on. DataError unless there are as many marks as spans."""
    groups = _between_marks(pieces, mark)
    if len(groups) - 1 != len(spans):
        raise DataError(
            f"expected {mark} as often as there is something to stand there, {len(spans)} times, "
            f"got {len(groups) - 1}"
        )
    first, *rest = groups
    texts = chat.encode_pieces(fmt, tokenizer, [first])
    texts += chat.encode_pieces(fmt, tokenizer, rest, has_bos=False)
    ids, origins, slots = [*texts[0].ids], [*texts[0].origins], [-1] * len(texts[0].ids)
    for span, text in zip(spans, texts[1:], strict=True):
        ids += [PLACEHOLDER] * len(span) + text.ids
        origins += [Origin.USER] * len(span) + text.origins
        slots += [*span] + [-1] * len(text.ids)
    return Encoded(ids, origins, np.array(slots, np.int32))


def num_marks(pieces: Sequence[Piece], mark: str) -> int:
    """How many marks stand in these pieces of a conversation."""
    return len(_between_marks(pieces, mark)) - 1


def _between_marks(pieces: Sequence[Piece], mark: str) -> list[list[Piece]]:
    """The pieces before the first mark, between it and the next one, and so on."""
    groups: list[list[Piece]] = [[]]
    for piece in pieces:
        if piece.origin not in _MARKED or mark not in piece.text:
            groups[-1].append(piece)
            continue
        *parts, last = piece.text.split(mark)
        for part in parts:
            groups[-1].append(piece._replace(text=part, is_closed=False))
            groups.append([])
        groups[-1].append(piece._replace(text=last))
    return groups
