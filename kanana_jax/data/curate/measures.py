"""What heuristics look at in a document: lengths, shares of characters and of lines.

Letters: D documents, K kinds of characters, C characters, L lines.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from kanana_jax.data.curate import characters
from kanana_jax.data.curate.characters import LETTERS, Characters, Kind

_SHORT_LINE = 30  # characters
_DENSE_SHORT_LINE = 15  # where a character says more
# Hyphen, asterisk, bullet and its like; horizontal ellipsis; replacement character.
_BULLETS = np.array([0x2D, 0x2A, 0x2022, 0x2023, 0x25CF, 0x25CB, 0x25A0, 0x25AA, 0x30FB, 0xB7])
_ELLIPSIS, _FULL_STOP, _REPLACEMENT = 0x2026, 0x2E, 0xFFFD
# What no sentence ends with, though it is punctuation: commas, opening marks, hyphens and slashes.
_OPEN = np.array([*map(ord, ",-/\\&*([{#@_"), 0x3001, 0xFF0C, 0x300C, 0x300E, 0xFF08, 0x2013])


def of(texts: Sequence[str], is_dense: Sequence[bool]) -> Mapping[str, Float[np.ndarray, "D"]]:
    """By name, a number for each text; shares lie between 0 and 1.

    is_dense: texts whose script says more per character, with a lower limit for short lines.
    """
    parts = [_of_batch(texts[one], is_dense[one]) for one in characters.batches(texts)]
    parts = parts or [_of_batch([], [])]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _of_batch(texts: Sequence[str], is_dense: Sequence[bool]) -> Mapping[str, np.ndarray]:
    read = characters.of(texts)
    count_DK = read.counts()
    size_D = count_DK.sum(axis=1)
    blank_D = count_DK[:, Kind.SPACE] + count_DK[:, Kind.NEWLINE]
    solid_D = np.maximum(size_D - blank_D, 1)
    is_broken_C = read.code_C == _REPLACEMENT
    words_D = _words(read)
    return {
        "characters": size_D.astype(np.float64),
        "words": words_D.astype(np.float64),
        "word length": solid_D / np.maximum(words_D, 1),
        "letters": count_DK[:, LETTERS].sum(axis=1) / solid_D,
        "digits": count_DK[:, Kind.DIGIT] / solid_D,
        "symbols": count_DK[:, Kind.SYMBOL] / solid_D,
        "blanks": blank_D / np.maximum(size_D, 1),
        "broken characters": _sums(read, is_broken_C) / solid_D,
        "compressed": np.array([_compressed(text) for text in texts]),
        **_of_lines(read, np.array(is_dense, bool)),
    }


def _of_lines(read: Characters, is_dense_D: np.ndarray) -> Mapping[str, np.ndarray]:
    """Shares of the lines that are not empty."""
    start_L, end_L = _lines(read)
    document_L = np.searchsorted(read.start_D, start_L, side="right") - 1
    size_L = end_L - start_L
    num_documents = len(read.size_D)
    num_D = np.maximum(np.bincount(document_L, minlength=num_documents), 1)

    def share(is_it_L: np.ndarray) -> np.ndarray:
        return np.bincount(document_L[is_it_L], minlength=num_documents) / num_D

    last_L = read.code_C[end_L - 1]
    before_L = read.code_C[np.maximum(end_L - 3, 0)]
    ends_in_dots_L = (last_L == _FULL_STOP) & (before_L == _FULL_STOP) & (size_L >= 3)
    is_closed_L = (read.kind_C[end_L - 1] == Kind.PUNCTUATION) & ~np.isin(last_L, _OPEN)
    is_again_L = _again(characters.Hasher(read.code_C).parts(start_L, end_L), document_L)
    most_L = np.where(is_dense_D, _DENSE_SHORT_LINE, _SHORT_LINE)[document_L]
    total_D = np.bincount(document_L, weights=size_L, minlength=num_documents)
    again_D = np.bincount(document_L, weights=size_L * is_again_L, minlength=num_documents)
    return {
        "closed lines": share(is_closed_L),
        "short lines": share(size_L <= most_L),
        "bullets": share(np.isin(read.code_C[start_L], _BULLETS)),
        "ellipses": share((last_L == _ELLIPSIS) | ends_in_dots_L),
        "repeated lines": again_D / np.maximum(total_D, 1),
    }


def _lines(read: Characters) -> tuple[Int[np.ndarray, "L"], Int[np.ndarray, "L"]]:
    """Where lines that are not empty begin and end."""
    end_L = np.flatnonzero(read.kind_C == Kind.NEWLINE)
    start_L = np.append(0, end_L[:-1] + 1)[: len(end_L)]
    has_any_L = end_L > start_L
    return start_L[has_any_L], end_L[has_any_L]


def _again(hash_L: np.ndarray, document_L: np.ndarray) -> np.ndarray:
    """Whether an equal line stands earlier in the same document."""
    order = np.lexsort((hash_L, document_L))  # stable, so the first of equals comes first
    is_same = (np.diff(hash_L[order]) == 0) & (np.diff(document_L[order]) == 0)
    found = np.zeros(len(hash_L), bool)
    found[order[1:]] = is_same
    return found


def _words(read: Characters) -> Int[np.ndarray, "D"]:
    is_blank_C = (read.kind_C == Kind.SPACE) | (read.kind_C == Kind.NEWLINE)
    is_end_C = is_blank_C & ~np.append(True, is_blank_C[:-1])[: len(is_blank_C)]
    return _sums(read, is_end_C)


def _sums(read: Characters, is_it_C: np.ndarray) -> Int[np.ndarray, "D"]:
    """How many characters of each document `is_it_C` marks."""
    place_M = np.flatnonzero(is_it_C)
    document_M = np.searchsorted(read.start_D, place_M, side="right") - 1
    return np.bincount(document_M, minlength=len(read.size_D))


def _compressed(text: str) -> float:
    """The bytes that zlib needs per byte of text; text that repeats itself needs few."""
    content = text.encode()
    return len(zlib.compress(content, 1)) / max(len(content), 1)
