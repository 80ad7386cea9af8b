"""Characters of many texts in one array: what kind each is, and hashes of any part.

A line end follows every text, so that no line or word spans two texts.

    H_i = sum_{j < i} m(c_j) P^j        hash of [s, e) = mix((H_e - H_s) P^-s)      mod 2^64

Letters: C characters, D documents, K kinds, N parts.
"""

import enum
import functools
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt, UInt8, UInt64

_P = 0x9E3779B97F4A7C15 | 1
_INVERSE = pow(_P, -1, 2**64)
_BATCH = 2**16  # characters
_TABLE_SIZE = 0x20000  # code points above are Han of the further planes, or rare


class Kind(enum.IntEnum):
    OTHER = 0
    SPACE = 1
    NEWLINE = 2
    DIGIT = 3
    PUNCTUATION = 4
    SYMBOL = 5
    CONTROL = 6
    LATIN = 7
    HANGUL = 8
    KANA = 9
    HAN = 10
    THAI = 11
    CYRILLIC = 12
    LETTER = 13  # of another script


LETTERS = tuple(kind for kind in Kind if kind >= Kind.LATIN)
_SCRIPTS = {
    "LATIN": Kind.LATIN,
    "HANGUL": Kind.HANGUL,
    "HIRAGANA": Kind.KANA,
    "KATAKANA": Kind.KANA,
    "KATAKANA-HIRAGANA": Kind.KANA,
    "CJK": Kind.HAN,
    "THAI": Kind.THAI,
    "CYRILLIC": Kind.CYRILLIC,
}


class Characters(NamedTuple):
    code_C: UInt[np.ndarray, "C"]  # code points
    kind_C: UInt8[np.ndarray, "C"]
    start_D: Int[np.ndarray, "D"]  # where each text begins
    size_D: Int[np.ndarray, "D"]  # with its line end

    @property
    def document_C(self) -> Int[np.ndarray, "C"]:
        return np.repeat(np.arange(len(self.size_D)), self.size_D)

    def counts(self) -> Int[np.ndarray, "D K"]:
        """How many of each kind, without the line end behind the text."""
        keys_C = self.document_C * len(Kind) + self.kind_C
        counted = np.bincount(keys_C, minlength=len(self.size_D) * len(Kind))
        count_DK = counted.reshape(len(self.size_D), len(Kind))
        count_DK[:, Kind.NEWLINE] -= 1
        return count_DK


def of(texts: Sequence[str]) -> Characters:
    size_D = np.array([len(text) + 1 for text in texts], np.int64)
    joined = "".join(f"{text}\n" for text in texts)
    code_C = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    kind_C = _kinds()[np.minimum(code_C, _TABLE_SIZE)]
    return Characters(code_C, kind_C, np.cumsum(size_D) - size_D, size_D)


def batches(texts: Sequence[str]) -> Iterator[slice]:
    """Texts in order, as many at a time as fit into a processor's cache."""
    first, size = 0, 0
    for place, text in enumerate(texts):
        if size and size + len(text) > _BATCH:
            yield slice(first, place)
            first, size = place, 0
        size += len(text) + 1
    if first < len(texts):
        yield slice(first, len(texts))


class Hasher:
    """Hashes of parts of a text, 64 bits each; equal parts have equal ones wherever they stand."""

    def __init__(self, code_C: UInt[np.ndarray, "C"]):
        size = 1 << len(code_C).bit_length()  # few distinct ones, so that powers are found once
        terms_C = mix(code_C.astype(np.uint64) + np.uint64(1)) * _powers(_P, size)[: len(code_C)]
        self._sum_C = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms_C, dtype=np.uint64)])
        self._inverse_C = _powers(_INVERSE, size)

    def parts(
        self, start_N: Int[np.ndarray, "N"], end_N: Int[np.ndarray, "N"]
    ) -> UInt64[np.ndarray, "N"]:
        return mix((self._sum_C[end_N] - self._sum_C[start_N]) * self._inverse_C[start_N])


def mix(value_N: UInt64[np.ndarray, "N"]) -> UInt64[np.ndarray, "N"]:
    """The finaliser of splitmix64: every bit depends on all."""
    value_N = (value_N ^ (value_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value_N = (value_N ^ (value_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value_N ^ (value_N >> np.uint64(31))


@functools.lru_cache(maxsize=64)
def _powers(base: int, count: int) -> UInt64[np.ndarray, "C"]:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


@functools.cache
def _kinds() -> UInt8[np.ndarray, "code"]:
    """Kinds by code point; the last is for all code points above."""
    found = [_kind(chr(code)) for code in range(_TABLE_SIZE)]
    return np.array([*found, Kind.HAN], np.uint8)


def _kind(character: str) -> Kind:
    category = unicodedata.category(character)
    if character == "\n":
        return Kind.NEWLINE
    if category[0] == "Z" or character in "\t\r":
        return Kind.SPACE
    if category[0] in "LM":
        # Marks, such as Thai vowels, belong to their script, too.
        name = unicodedata.name(character, "").partition(" ")[0]
        return _SCRIPTS.get(name, Kind.LETTER)
    groups = {"N": Kind.DIGIT, "P": Kind.PUNCTUATION, "S": Kind.SYMBOL, "C": Kind.CONTROL}
    return groups[category[0]]
