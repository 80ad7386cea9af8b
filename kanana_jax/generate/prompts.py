"""Prompts that begin together, put into parts of few shapes for `decoder.prefill`.

A part holds chunks of up to N prompts, of one padded width. The shapes in which a prompt is read
depend only on its own length and on N, not on the prompts next to it.

Letters: N prompts read at once, S width of a chunk.
"""

import collections
import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from kanana_jax.generate import decoder


class Part(NamedTuple):
    """What one call of `decoder.prefill` reads, and from which prompts."""

    rows: tuple[int, ...]  # of the cache; the first of the N
    lengths: tuple[int, ...]  # tokens of each
    is_end: tuple[bool, ...]  # whether the prompt ends here
    row_N: Int[np.ndarray, "N"]  # beyond the cache where there is no prompt
    tokens_NS: Int[np.ndarray, "N S"]
    start_N: Int[np.ndarray, "N"]
    last_N: Int[np.ndarray, "N"]


def parts(
    prompts: Mapping[int, Int[np.ndarray, "T"]], *, chunk: int, at_once: int, num_rows: int
) -> Iterator[Part]:
    """All chunks of prompts by cache row, a prompt's chunks in order; `at_once` per part."""
    for start in range(0, max(map(len, prompts.values())), chunk):
        by_width = collections.defaultdict(list)
        for row, ids in prompts.items():
            if start < len(ids):
                width = decoder.padded_chunk(len(ids[start : start + chunk]), chunk)
                by_width[width].append(row)
        for width, rows in by_width.items():
            for few in itertools.batched(rows, at_once):
                yield _part({row: prompts[row] for row in few}, start, width, at_once, num_rows)


def targets(part: Part, prompts: Mapping[int, Int[np.ndarray, "T"]]) -> Int[np.ndarray, "N S"]:
    """The token that follows each token of a part; 0 where none does."""
    targets_NS = np.zeros_like(part.tokens_NS)
    for targets_S, row, start in zip(targets_NS, part.rows, part.start_N.tolist(), strict=False):
        following = prompts[row][start + 1 : start + 1 + len(targets_S)]
        targets_S[: len(following)] = following
    return targets_NS


def slots(part: Part, of_rows: Mapping[int, Int[np.ndarray, "T"]]) -> Int[np.ndarray, "N S"]:
    """The slots at a part's positions, for rows that have features; -1 where there is none."""
    slots_NS = np.full_like(part.tokens_NS, -1)
    for slots_S, row, start in zip(slots_NS, part.rows, part.start_N.tolist(), strict=False):
        here = of_rows[row][start : start + len(slots_S)] if row in of_rows else ()
        slots_S[: len(here)] = here
    return slots_NS


def _part(
    prompts: Mapping[int, np.ndarray], start: int, width: int, at_once: int, num_rows: int
) -> Part:
    chunks = [ids[start : start + width] for ids in prompts.values()]
    tokens_NS = np.zeros((at_once, width), np.int32)
    for tokens_S, part in zip(tokens_NS, chunks, strict=False):
        tokens_S[: len(part)] = part
    # Rows are distinct even where nothing is written, because the writes promise it.
    row_N = num_rows + np.arange(at_once, dtype=np.int32)
    row_N[: len(chunks)] = list(prompts)
    lengths = tuple(map(len, chunks))
    last_N = np.zeros(at_once, np.int32)
    last_N[: len(chunks)] = np.array(lengths) - 1
    return Part(
        rows=tuple(prompts),
        lengths=lengths,
        is_end=tuple(start + width >= len(ids) for ids in prompts.values()),
        row_N=row_N,
        tokens_NS=tokens_NS,
        start_N=np.full(at_once, start, np.int32),
        last_N=last_N,
    )
