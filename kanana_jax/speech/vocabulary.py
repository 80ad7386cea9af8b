"""Ids of speech behind those of text, in one vocabulary that the decoder draws from.

    [0, T)  text        [T, T + C)  codes of the codec        T + C  the end of speech
    then marks: speech begins, sound was heard, its transcript begins

    to say     voice: text, SAY, codes ..., END            to hear    HEARD x features, WRITE, text
"""

from collections.abc import Sequence
from typing import NamedTuple


class Vocabulary(NamedTuple):
    """Where ids of speech lie."""

    num_text: int
    num_codes: int

    @property
    def end(self) -> int:
        return self.num_text + self.num_codes

    @property
    def say(self) -> int:
        return self.end + 1

    @property
    def heard(self) -> int:
        """Stands where a feature of sound takes the place of an embedding."""
        return self.end + 2

    @property
    def write(self) -> int:
        return self.end + 3

    @property
    def size(self) -> int:
        return self.end + 4

    def to_say(self, text_ids: Sequence[int]) -> list[int]:
        """The prompt after which codes come, `text_ids` being those of `spelt`."""
        return [*text_ids, self.say]

    def said(self, codes: Sequence[int]) -> list[int]:
        """Codes of the codec as the decoder draws them, with the end."""
        return [*(self.num_text + int(code) for code in codes), self.end]


def spelt(voice: str, text: str) -> str:
    """What is tokenized of a text to be said."""
    return f"{voice}: {text}"
