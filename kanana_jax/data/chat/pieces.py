"""Pieces of a conversation's text, each with its origin. The loss counts the model's pieces.

    mask of a token = (its origin is MODEL)

A piece is tokenized by itself, so an id has one origin, and the ids of a prompt do not depend on
what follows.
"""

import enum
from typing import NamedTuple


class Origin(enum.IntEnum):
    """Who wrote a token. Stored in files of the cache: a number keeps its meaning."""

    TEMPLATE = 0  # the format
    USER = 1  # what stands in the record besides answers and results: user, system, tools
    MODEL = 2  # an answer that is trained
    TOOL = 3  # the result of a call
    EARLIER = 4  # what the assistant said before the answer that is judged


class Piece(NamedTuple):
    """Text of one origin.

    Text of the format, and text with `is_mark`, is encoded with special tokens where it spells
    them; other text that spells a special token stays text.
    """

    text: str
    origin: Origin
    is_closed: bool = False  # the token that ends a turn follows
    is_mark: bool = False

    @property
    def has_special_tokens(self) -> bool:
        return self.is_mark or self.origin is Origin.TEMPLATE
