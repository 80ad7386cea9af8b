"""Shingles: overlapping parts of a text, hashed, by which texts are compared.

    words        every `width` words in a row, where words have spaces between them
    characters   every `width` characters that are no spaces, in Korean, Japanese, Chinese, Thai

A text shorter than that is one shingle. Letters: D documents, N shingles of all of them, W words.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt64

from kanana_jax.data.curate import characters
from kanana_jax.data.curate.characters import Kind

BY_CHARACTERS = ("ko", "ja", "zh", "th")
_FOLD = np.uint64(0x9E3779B97F4A7C15)


class Shingles(NamedTuple):
    hash_N: UInt64[np.ndarray, "N"]
    document_N: Int[np.ndarray, "N"]


def of(texts: Sequence[str], languages: Sequence[str], *, words: int, letters: int) -> Shingles:
    """The shingles of all texts, of `words` words or `letters` characters, by the language of each.

    Case and the number of blanks make no difference.
    """
    found = [Shingles(np.zeros(0, np.uint64), np.zeros(0, np.int64))]
    by_letters_D = np.array([language in BY_CHARACTERS for language in languages], bool)
    for place_M, units, width in (
        (np.flatnonzero(~by_letters_D), _words, words),
        (np.flatnonzero(by_letters_D), _letters, letters),
    ):
        chosen = [texts[place] for place in place_M.tolist()]
        for batch in characters.batches(chosen):
            read = characters.of([text.lower() for text in chosen[batch]])
            hash_N, document_N = _windows(*units(read), width)
            found.append(Shingles(hash_N, place_M[batch][document_N]))
    return Shingles(
        np.concatenate([part.hash_N for part in found]),
        np.concatenate([part.document_N for part in found]),
    )


def _words(read: characters.Characters) -> tuple[np.ndarray, np.ndarray]:
    """The hash of every word, and its document."""
    is_blank_C = (read.kind_C == Kind.SPACE) | (read.kind_C == Kind.NEWLINE)
    edge_C = np.diff(is_blank_C.astype(np.int8), prepend=1)
    start_W, end_W = np.flatnonzero(edge_C == -1), np.flatnonzero(edge_C == 1)
    document_W = np.searchsorted(read.start_D, start_W, side="right") - 1
    return characters.Hasher(read.code_C).parts(start_W, end_W), document_W


def _letters(read: characters.Characters) -> tuple[np.ndarray, np.ndarray]:
    """The hash of every character that is no blank, and its document."""
    is_kept_C = (read.kind_C != Kind.SPACE) & (read.kind_C != Kind.NEWLINE)
    return characters.mix(read.code_C[is_kept_C].astype(np.uint64)), read.document_C[is_kept_C]


def _windows(
    hash_W: np.ndarray, document_W: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of `width` units in a row within a document; of all units where it has fewer."""
    if not len(hash_W):
        return hash_W, document_W
    padded_W = np.append(hash_W, np.zeros(width - 1, np.uint64))
    found_W = padded_W[: len(hash_W)].copy()
    for offset in range(1, width):
        found_W *= _FOLD
        found_W += padded_W[offset : offset + len(hash_W)]
    first_D = np.flatnonzero(np.diff(document_W, prepend=-1))
    end_D = np.append(first_D[1:], len(document_W))
    is_start_W = np.ones(len(hash_W), bool)
    for offset in range(1, width):  # no shingle begins at the last units of a document
        is_start_W[np.maximum(end_D - offset, first_D)] = False
    is_start_W[first_D] = True
    for first, end in zip(first_D, end_D, strict=True):
        if end - first < width:
            found_W[first] = _folded(hash_W[first:end])
    return characters.mix(found_W[is_start_W]), document_W[is_start_W]


def _folded(hash_W: np.ndarray) -> np.uint64:
    found = 0
    for one in hash_W.tolist():
        found = (found * int(_FOLD) + one) % 2**64
    return np.uint64(found)
