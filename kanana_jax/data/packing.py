"""Concat-and-split packing by random access: window w of epoch e, without reading any other.

    documents in the order of epoch e:   |  d3   | d0 |      d7       | d1 | ...
    windows of S inputs, S + 1 tokens:   | w0   | w1   | w2   | w3   | ...

Window w holds tokens [w S, w S + S] of the concatenation: inputs are the first S, targets the
last S. Over an epoch each token is an input once, up to the last (num_tokens - 1) mod S and the
final token. Segment ids count the documents of a window from 1 and 0 is padding. Positions start at
0 at each document, and again where a document goes on in the next window: rope is relative, and
the window sees nothing from before.

Letters: S sequence length, N documents, V vocabulary.
"""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from kanana_jax.batch import Batch
from kanana_jax.data.store import TokenArray


class Order(NamedTuple):
    """Documents in the order of one epoch, and where each ends in that order."""

    documents_N: Int64[np.ndarray, "N"]
    ends_N: Int64[np.ndarray, "N"]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """One side of one source, cut into windows. `order(epoch)` arranges the documents."""

    array: TokenArray
    order: Callable[[int], Order]
    token_bytes_V: Int32[np.ndarray, "V"]
    seq_len: int

    @property
    def num_padded_windows(self) -> int:
        """Windows when the last one may be padded, so that every token is covered."""
        return max(0, -(-(self.array.num_tokens - 1) // self.seq_len))

    def window_of(self, epoch: int, place: int) -> Batch:
        """Window `place` of an epoch; the one after the last whole window is padded."""
        begin = place * self.seq_len
        end = min(begin + self.seq_len + 1, self.array.num_tokens)
        tokens, segments, positions = _gather(self.array, self.order(epoch), begin, end)
        return _shift(tokens, segments, positions, self.token_bytes_V, self.seq_len)


def shuffled(array: TokenArray, *key: object) -> Callable[[int], Order]:
    """A new order of the documents in each epoch, a pure function of (key, epoch)."""

    # Windows of neighbouring epochs are in flight together where one ends.
    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> Order:
        return _order(array, random_permutation(array.num_documents, *key, epoch))

    return order


def stored(array: TokenArray) -> Callable[[int], Order]:
    """The order in which the documents were read, in every epoch."""
    order = _order(array, np.arange(array.num_documents))
    return lambda epoch: order


def random_permutation(size: int, *key: object) -> Int64[np.ndarray, "N"]:
    """A permutation decided by `key`, the same on every machine and numpy version."""
    # numpy promises the raw stream of Philox, not that of Generator.permutation.
    raw = np.random.Philox(key=seed_of(*key, bits=128)).random_raw(size)
    return np.argsort(raw, kind="stable")


def seed_of(*key: object, bits: int) -> int:
    """A seed of `bits` bits that differs for every key."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=bits // 8).digest())


def _order(array: TokenArray, documents_N: Int64[np.ndarray, "N"]) -> Order:
    lengths = np.diff(array.ends_N, prepend=0)
    return Order(documents_N=documents_N, ends_N=np.cumsum(lengths[documents_N]))


def _gather(
    array: TokenArray, order: Order, begin: int, end: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens [begin, end) of the concatenation, with their segment ids and positions."""
    first, last = np.searchsorted(order.ends_N, [begin, end - 1], side="right")
    ends = np.minimum(order.ends_N[first : last + 1], end)
    lengths = np.diff(ends, prepend=begin)
    # Counted back from the document's end, which is known in both orders.
    stops = array.ends_N[order.documents_N[first : last + 1]] - (
        order.ends_N[first : last + 1] - ends
    )
    spans = zip(stops - lengths, stops, strict=True)
    tokens = np.concatenate([array.read(int(start), int(stop)) for start, stop in spans])
    segments = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    positions = np.arange(end - begin) - np.repeat(ends - lengths - begin, lengths)
    return tokens, segments, positions


def _shift(
    tokens: np.ndarray,
    segments: np.ndarray,
    positions: np.ndarray,
    token_bytes_V: Int32[np.ndarray, "V"],
    seq_len: int,
) -> Batch:
    """Inputs and targets from S + 1 tokens; fewer are padded."""
    pad = (0, seq_len + 1 - len(tokens))
    inputs, input_segments, targets = tokens[:-1], segments[:-1], tokens[1:].astype(np.int32)
    mask = (input_segments == segments[1:]).astype(np.float32)
    columns = (
        inputs.astype(np.int32),
        targets,
        positions[:-1].astype(np.int32),
        input_segments.astype(np.int32),
        mask,
        mask * token_bytes_V[targets].astype(np.float32),
    )
    return Batch(*(np.pad(column, pad) if pad[1] else column for column in columns), extra={})
