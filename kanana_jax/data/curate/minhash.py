"""MinHash signatures from one hash per shingle, and the groups of near duplicates that they show.

    s_b = min { h(x) : x in the text, bucket(h(x)) = b }        one permutation, B buckets
    P(s_b equal) = J = |X and Y| / |X or Y|
    a pair is looked at  <=>  all rows of one band are equal:  P = 1 - (1 - J^rows)^bands

Empty buckets borrow from others by a fixed random walk, which keeps the estimate unbiased (optimal
densification, Shrivastava 2017). A pair is a duplicate where its signatures agree by `threshold`.

Letters: D documents, B buckets, N shingles.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt64

from kanana_jax.data.curate import characters
from kanana_jax.data.curate.shingles import Shingles

NUM_BUCKETS = 128
NUM_BANDS = 16  # of 8 rows: P(0.8) = .95, P(0.5) = .06
_EMPTY = np.uint64(2**64 - 1)
_BITS = np.uint64(64 - 7)


class Pair(NamedTuple):
    first: int
    second: int


def signatures(found: Shingles, num_documents: int) -> UInt64[np.ndarray, "D B"]:
    """A row for each document; those without a shingle are all ones."""
    signature = np.full(num_documents * NUM_BUCKETS, _EMPTY)
    # The upper bits choose the bucket, the whole hash is compared in it.
    key_N = found.document_N * NUM_BUCKETS + (found.hash_N >> _BITS).astype(np.int64)
    np.minimum.at(signature, key_N, characters.mix(found.hash_N))
    return _densified(signature.reshape(num_documents, NUM_BUCKETS))


def _densified(signature_DB: UInt64[np.ndarray, "D B"]) -> UInt64[np.ndarray, "D B"]:
    full_DB, is_empty_DB = signature_DB.copy(), signature_DB == _EMPTY
    has_any_D = ~is_empty_DB.all(axis=1)
    # E empty buckets of texts that have others.
    document_E, bucket_E = np.nonzero(is_empty_DB & has_any_D[:, None])
    attempt = 0
    while len(document_E):
        attempt += 1
        seed = np.uint64(attempt * NUM_BUCKETS)
        donor_E = (characters.mix(bucket_E.astype(np.uint64) + seed) >> _BITS).astype(np.int64)
        taken_E = signature_DB[document_E, donor_E]
        full_DB[document_E, bucket_E] = taken_E
        is_left_E = taken_E == _EMPTY
        document_E, bucket_E = document_E[is_left_E], bucket_E[is_left_E]
    return full_DB


def similarity(first_B: np.ndarray, second_B: np.ndarray) -> float:
    """The estimate of the Jaccard index of two texts."""
    return float((first_B == second_B).mean())


def candidates(signature_DB: UInt64[np.ndarray, "D B"]) -> set[Pair]:
    """Pairs that share a band; where many documents share one, each is paired with the first."""
    rows = NUM_BUCKETS // NUM_BANDS
    is_empty_D = (signature_DB == _EMPTY).all(axis=1)
    found: set[Pair] = set()
    for band in range(NUM_BANDS):
        key_D = np.zeros(len(signature_DB), np.uint64)
        for row in range(band * rows, (band + 1) * rows):
            key_D = characters.mix(key_D + signature_DB[:, row])
        order = np.argsort(key_D, kind="stable")
        sorted_D = key_D[order]
        starts = np.flatnonzero(np.diff(sorted_D, prepend=~sorted_D[:1]))
        for start, end in zip(starts, np.append(starts[1:], len(order)), strict=True):
            if end - start > 1 and not is_empty_D[order[start]]:
                first, *others = order[start:end].tolist()
                found.update(Pair(first, other) for other in others)
    return found


def groups(signature_DB: UInt64[np.ndarray, "D B"], threshold: float) -> Int[np.ndarray, "D"]:
    """For each document the first one of its group; itself where it has no near duplicate."""
    parent = list(range(len(signature_DB)))
    for first, second in sorted(candidates(signature_DB)):
        if similarity(signature_DB[first], signature_DB[second]) >= threshold:
            low, high = sorted((_root(parent, first), _root(parent, second)))
            parent[high] = low
    return np.array([_root(parent, one) for one in range(len(parent))], np.int64)


def _root(parent: list[int], one: int) -> int:
    while parent[one] != one:
        parent[one] = parent[parent[one]]
        one = parent[one]
    return one


def survivors(group_D: Int[np.ndarray, "D"], ranks: Sequence[tuple]) -> dict[int, int]:
    """The survivor for each dropped document: of every group the one of smallest rank stays."""
    best: dict[int, int] = {}
    for one, group in enumerate(group_D.tolist()):
        if group not in best or ranks[one] < ranks[best[group]]:
            best[group] = one
    return {one: best[group] for one, group in enumerate(group_D.tolist()) if best[group] != one}
