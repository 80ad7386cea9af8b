"""Packing of whole examples into rows, none of them cut, and batches of such rows.

    order of examples per epoch -> first fit -> rows -> shuffle -> mix of sources -> batch

An example is one segment, or the two of a pair. A segment of n tokens takes n - 1 positions of a
row: its inputs are all but the last token, its targets all but the first. The segments of a row are
numbered from 1 in their order, positions start at 0 in each, and padding fills the end of the row.

A batch is a pure function of (data.seed, number). Epochs differ in how many rows they fill, so the
first batch after a start packs the epochs before it, without reading a token; later batches do not.
Without data.weights all sources are one population; with them, each is packed by itself and rows
are drawn by ratio.

Letters: T tokens, G segments, N examples, R rows, S positions of a row, V vocabulary.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Shaped, UInt8

from kanana_jax.batch import Batch, Features
from kanana_jax.config import DataConfig
from kanana_jax.data import chat, mixture, packing
from kanana_jax.data.errors import DataError
from kanana_jax.data.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Examples as tokens, segment after segment; all examples have the same number of segments."""

    tokens_T: Shaped[np.ndarray, "T"]  # of an unsigned type
    origin_T: UInt8[np.ndarray, "T"]  # of chat.Origin
    ends_G: Int64[np.ndarray, "G"]
    source_N: Int32[np.ndarray, "N"]
    is_heldout_N: Bool[np.ndarray, "N"]
    # The least positions of an example, where something else fills its row; None: nothing does.
    least_N: Int64[np.ndarray, "N"] | None = None

    @property
    def is_target_T(self) -> Bool[np.ndarray, "T"]:
        return self.origin_T == chat.Origin.MODEL

    @property
    def num_segments(self) -> int:
        """The segments of each example."""
        return len(self.ends_G) // max(len(self.source_N), 1)

    @functools.cached_property
    def lengths_N(self) -> Int64[np.ndarray, "N"]:
        """The positions that each example takes."""
        of_segment_G = np.diff(self.ends_G, prepend=0) - 1
        lengths_N = of_segment_G.reshape(len(self.source_N), -1).sum(axis=1)
        return lengths_N if self.least_N is None else np.maximum(lengths_N, self.least_N)

    def segments(self, example: int) -> list[slice]:
        """Where the tokens of the example's segments lie."""
        first = example * self.num_segments
        begin = int(self.ends_G[first - 1]) if first else 0
        ends = self.ends_G[first : first + self.num_segments].tolist()
        return [slice(*span) for span in itertools.pairwise([begin, *ends])]

    def kept(self, is_kept_N: Bool[np.ndarray, "N"]) -> "Examples":
        """The examples that `is_kept_N` marks."""
        if is_kept_N.all():
            return self
        is_kept_G = np.repeat(is_kept_N, self.num_segments)
        sizes_G = np.diff(self.ends_G, prepend=0)
        is_kept_T = np.repeat(is_kept_G, sizes_G)
        return Examples(
            tokens_T=self.tokens_T[is_kept_T],
            origin_T=self.origin_T[is_kept_T],
            ends_G=np.cumsum(sizes_G[is_kept_G]),
            source_N=self.source_N[is_kept_N],
            is_heldout_N=self.is_heldout_N[is_kept_N],
            least_N=None if self.least_N is None else self.least_N[is_kept_N],
        )


@dataclass(frozen=True, kw_only=True)
class WholeDocuments:
    """Examples to train on and to evaluate on, and their batches."""

    names: tuple[str, ...]  # of the sources, as in data.paths
    kind: str  # what an example is, in the plural
    format: chat.Format
    tokenizer: Tokenizer
    examples: Examples
    fingerprint: str  # equal if and only if every token, target, side and the tokenizer are
    num_skipped: int = 0  # lines left out by data.skip_bad_lines
    # A number for each token as a target, by name; batches hold them as `Batch.extra`.
    columns: Mapping[str, Float32[np.ndarray, "T"]] = field(default_factory=dict)
    # What stands in place of tokens in a row of these examples, which has so many positions.
    features: Callable[[Int64[np.ndarray, "N"], int], Features] | None = None

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def describe(self) -> str:
        """One line: sources, examples, tokens, and the share of them that are targets."""
        is_heldout_N = self.examples.is_heldout_N
        return (
            f"{len(self.names)} source(s), {np.sum(~is_heldout_N):,} {self.kind} to train on, "
            f"{np.sum(is_heldout_N):,} held out, {len(self.examples.tokens_T):,} tokens, "
            f"{np.mean(self.examples.is_target_T):.0%} of them targets"
        )

    def train_batch(self, cfg: DataConfig, number: int, rows: Sequence[int] | None = None) -> Batch:
        """Batch `number` from 0, or its rows `rows`. DataError where data.seq_len is too short."""
        _expect_fit(self.examples, cfg.seq_len)
        row_of = _train_rows(self.examples, cfg.seed, cfg.seq_len, cfg.weights)
        used = range(cfg.batch_size) if rows is None else rows
        return self._stack([row_of(number * cfg.batch_size + row) for row in used], cfg.seq_len)

    def heldout_batches(
        self, cfg: DataConfig, num_batches: int, rows: Sequence[int] | None = None
    ) -> list[Batch]:
        """At most `num_batches` batches of held-out rows, the same for every seed.

        Each row comes from one source. With too few rows there are fewer batches, and rows of
        padding fill up the last.
        """
        chosen = [row for _, row in self._heldout_rows(cfg, num_batches)]
        none = np.zeros(0, np.int64)
        used = range(cfg.batch_size) if rows is None else rows
        batches = []
        for begin in range(0, len(chosen), cfg.batch_size):
            of_batch = chosen[begin : begin + cfg.batch_size]
            wanted = [of_batch[row] if row < len(of_batch) else none for row in used]
            batches.append(self._stack(wanted, cfg.seq_len))
        return batches

    def joined_with(self, examples: Examples, name: str) -> Self:
        """With the examples of one more source, `name`, whose number must follow those here."""
        parts = self.examples, examples
        joint = Examples(
            tokens_T=np.concatenate([one.tokens_T for one in parts]),
            origin_T=np.concatenate([one.origin_T for one in parts]),
            ends_G=np.concatenate(
                [self.examples.ends_G, examples.ends_G + len(self.examples.tokens_T)]
            ),
            source_N=np.concatenate([one.source_N for one in parts]),
            is_heldout_N=np.concatenate([one.is_heldout_N for one in parts]),
        )
        return dataclasses.replace(self, names=(*self.names, name), examples=joint)

    def heldout_sources(self, cfg: DataConfig, num_batches: int) -> Int64[np.ndarray, "S"]:
        """The source of every row of `heldout_batches`, without those of padding at the end."""
        return np.array([source for source, _ in self._heldout_rows(cfg, num_batches)], np.int64)

    def trained_shares(self, cfg: DataConfig) -> list[float]:
        """Each source's share of the tokens that training counts."""
        examples = self.examples
        targets_T = np.cumsum(examples.is_target_T)
        ends_N = examples.ends_G[examples.num_segments - 1 :: examples.num_segments]
        targets_N = np.diff(targets_T[ends_N - 1], prepend=0)
        counts = []
        for source in range(len(self.names)):
            train_N = np.flatnonzero(~examples.is_heldout_N & (examples.source_N == source))
            num_rows = len(pack(train_N, examples.lengths_N, cfg.seq_len))
            # Without weights a row is drawn as often as any other.
            per_row = cfg.weights[source] / num_rows if cfg.weights else 1.0
            counts.append(float(targets_N[train_N].sum()) * per_row)
        return [count / sum(counts) for count in counts]

    def _heldout_rows(
        self, cfg: DataConfig, num_batches: int
    ) -> list[tuple[int, Int64[np.ndarray, "N"]]]:
        """(source, its examples) of each row, from each source in turn while it has some."""
        examples = self.examples
        _expect_fit(examples, cfg.seq_len)
        found = []
        for source in range(len(self.names)):
            here_N = np.flatnonzero(examples.is_heldout_N & (examples.source_N == source))
            packed = pack(here_N, examples.lengths_N, cfg.seq_len)
            order = packing.random_permutation(len(packed), "heldout")
            found += [(turn, source, packed[row]) for turn, row in enumerate(order)]
        found.sort(key=lambda one: one[:2])
        return [(source, row) for _, source, row in found[: num_batches * cfg.batch_size]]

    def every_example(
        self, cfg: DataConfig, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[Batch, list[Int64[np.ndarray, "targets"]]]]:
        """Batches that hold each example once, and the places in `tokens_T` of each row's targets.

        The batches hold the rows `rows`; the places are those of all rows. The last batch is filled
        up with rows of padding.
        """
        _expect_fit(self.examples, cfg.seq_len)
        all_N = np.arange(len(self.examples.source_N))
        none = np.zeros(0, np.int64)
        packed = pack(all_N, self.examples.lengths_N, cfg.seq_len)
        used = range(cfg.batch_size) if rows is None else rows
        for of_batch in itertools.batched(packed, cfg.batch_size):
            wanted = [of_batch[row] if row < len(of_batch) else none for row in used]
            places = [_target_places(self.examples, row) for row in of_batch]
            yield self._stack(wanted, cfg.seq_len), places

    def _stack(self, rows: Sequence[Int64[np.ndarray, "N"]], seq_len: int) -> Batch:
        token_bytes_V, features = self.tokenizer.token_bytes_V, self.features
        made = [make_row(self.examples, row, token_bytes_V, seq_len, self.columns) for row in rows]
        if features is not None:
            made = [
                one._replace(features=features(row, seq_len))
                for one, row in zip(made, rows, strict=True)
            ]
        return Batch.stacked(made)


def _expect_fit(examples: Examples, seq_len: int) -> None:
    longest = int(examples.lengths_N.max())
    if longest > seq_len:
        raise DataError(
            f"data.seq_len: expected at least {longest}, the length of the longest example that "
            f"was read, got {seq_len}; read them with this data.seq_len."
        )


def make_row(
    examples: Examples,
    row_N: Int64[np.ndarray, "N"],
    token_bytes_V: Int32[np.ndarray, "V"],
    seq_len: int,
    columns_T: Mapping[str, Float32[np.ndarray, "T"]],
) -> Batch:
    """One row of a batch, columns of `seq_len`, from the examples in their order.

    `columns_T` become its `extra`.
    """
    places = [place for n in row_N for place in examples.segments(int(n))]
    columns = [_columns(examples, place, number) for number, place in enumerate(places, start=1)]
    dtypes = (np.int32,) * 4 + (np.float32,) * 2
    names = Batch._fields[: len(dtypes)]
    found: dict[str, Any] = {
        name: np.zeros(seq_len, dtype) for name, dtype in zip(names, dtypes, strict=True)
    }
    begin = 0
    for segment in columns:
        end = begin + len(segment["tokens"])
        for name, values in segment.items():
            found[name][begin:end] = values
        begin = end
    row = Batch(**found, extra=_extra(examples, row_N, seq_len, columns_T))
    num_bytes = token_bytes_V[row.targets].astype(np.float32)
    return row._replace(target_bytes=row.loss_mask * num_bytes)


def _extra(
    examples: Examples,
    row_N: Int64[np.ndarray, "N"],
    seq_len: int,
    columns_T: Mapping[str, Float32[np.ndarray, "T"]],
) -> dict[str, Float32[np.ndarray, "S"]]:
    if not columns_T:
        return {}
    places = _target_places(examples, row_N)
    padding = (0, seq_len - len(places))
    return {name: np.pad(column_T[places], padding) for name, column_T in columns_T.items()}


def _target_places(
    examples: Examples, row_N: Int64[np.ndarray, "N"]
) -> Int64[np.ndarray, "targets"]:
    """Where in `tokens_T` the targets of a row lie, in the order of its positions."""
    places = [place for n in row_N for place in examples.segments(int(n))]
    return np.concatenate(
        [np.zeros(0, np.int64), *(np.arange(place.start + 1, place.stop) for place in places)]
    )


def _columns(examples: Examples, place: slice, number: int) -> dict[str, np.ndarray]:
    tokens, origins = examples.tokens_T[place], examples.origin_T[place]
    length = len(tokens) - 1
    return {
        "tokens": tokens[:-1],
        "targets": tokens[1:],
        "positions": np.arange(length),
        "segment_ids": np.full(length, number),
        "loss_mask": origins[1:] == chat.Origin.MODEL,
    }


def pack(
    examples_N: Int64[np.ndarray, "N"], lengths: Int64[np.ndarray, "A"], seq_len: int
) -> list[Int64[np.ndarray, "N"]]:
    """The examples of each row, by first fit in the order given; `lengths` are of all examples."""
    row_N = first_fit(lengths[examples_N], seq_len)
    ends_R = np.cumsum(np.bincount(row_N))
    return np.split(examples_N[np.argsort(row_N, kind="stable")], ends_R[:-1])


def first_fit(lengths_N: Int64[np.ndarray, "N"], capacity: int) -> Int64[np.ndarray, "N"]:
    """The row of each length: the first that has room for it. None is longer than `capacity`."""
    # A tree over the rows: each node knows the most room of a row below it.
    width = 1 << max(len(lengths_N) - 1, 0).bit_length()
    room = [capacity] * (2 * width)
    rows = []
    for length in lengths_N.tolist():
        node = 1
        while node < width:
            node = 2 * node if room[2 * node] >= length else 2 * node + 1
        rows.append(node - width)
        room[node] -= length
        while node > 1:
            node //= 2
            most = max(room[2 * node], room[2 * node + 1])
            if room[node] == most:
                break  # and nothing changes above
            room[node] = most
    return np.asarray(rows, np.int64)


_RowOf = Callable[[int], Int64[np.ndarray, "N"]]  # from a number that counts over all epochs


@functools.lru_cache(maxsize=2)
def _train_rows(examples: Examples, seed: int, seq_len: int, weights: tuple[float, ...]) -> _RowOf:
    is_train_N = ~examples.is_heldout_N
    if not weights:
        return _epochs(np.flatnonzero(is_train_N), examples.lengths_N, seq_len, seed)
    sources = [
        _epochs(
            np.flatnonzero(is_train_N & (examples.source_N == index)),
            examples.lengths_N,
            seq_len,
            *(seed, index),
        )
        for index in range(len(weights))
    ]

    def row_of(number: int) -> Int64[np.ndarray, "N"]:
        source, place = mixture.draw(weights, number)
        return sources[source](place)

    return row_of


def _epochs(
    examples_N: Int64[np.ndarray, "N"], lengths: Int64[np.ndarray, "A"], seq_len: int, *key: object
) -> _RowOf:
    # Rows of neighbouring epochs are in flight together where one ends.
    @functools.lru_cache(maxsize=2)
    def rows(epoch: int) -> list[Int64[np.ndarray, "N"]]:
        order = packing.random_permutation(len(examples_N), "documents", *key, epoch)
        packed = pack(examples_N[order], lengths, seq_len)
        # First fit leaves the rows with much padding at the end.
        shuffled = packing.random_permutation(len(packed), "rows", *key, epoch)
        return [packed[row] for row in shuffled]

    @functools.cache
    def end(epoch: int) -> int:
        return len(rows(epoch)) + (end(epoch - 1) if epoch else 0)

    def row_of(number: int) -> Int64[np.ndarray, "N"]:
        epoch = next(epoch for epoch in itertools.count() if number < end(epoch))
        return rows(epoch)[number - (end(epoch - 1) if epoch else 0)]

    return row_of
