"""Examples from JSON lines: read, split, tokenized once, and kept in a cache.

    data.paths -> records -> pieces of text -> split by content hash -> tokenizer -> tokens

A segment is pieces of text, each with its origin; `chat.encoding` makes ids of them. Pieces are
tokenized separately, so that the tokens of a prompt do not depend on the answer.

The side of an example is decided by the hash of its `key` alone,

    held out  <=>  hash(key) < heldout_fraction * 2^64

per source; if no hash falls under the limit, the smallest is held out, and if all do, the largest
is trained on. Identical examples are kept once.

The text is read at every start, because only its content says whether cached tokens are still the
right ones. Tokens are held in memory: 3 bytes for each, or 5 where the vocabulary is over 65,536.

Letters: N examples.
"""

import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, UInt64

from kanana_jax.config import DataConfig
from kanana_jax.data import cache_files, chat, examples_file, jsonl, records, split
from kanana_jax.data import tokenizer as tokenizers
from kanana_jax.data.errors import DataError, StoreError
from kanana_jax.data.sources import Skipped
from kanana_jax.data.wanted_tokenizer import wanted_tokenizer
from kanana_jax.data.whole_documents import Examples, WholeDocuments

_BATCH_EXAMPLES = 64  # tokenized together


# Functions that yield the fields of records from the beginning, for entries that are not files.
Streams = Mapping[str, Callable[[], Iterator[dict[str, Any]]]]


class Example(NamedTuple):
    """What a record says."""

    segments: tuple[tuple[chat.Piece, ...], ...]
    key: bytes  # decides the side
    where: str = ""  # its file and line, for errors


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How to make examples from records. `parse` raises DataError where a record makes none."""

    name: str  # of the examples, in the plural
    keys: str  # what decides the side, in the plural
    num_segments: int  # of each example
    format: chat.Format
    parse: Callable[[jsonl.Record], Sequence[Example]]
    streams: Streams = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Text:
    """Examples that were read and found usable. `open` writes their tokens, unless cached."""

    tokenizer: tokenizers.Tokenizer
    digest: str  # equal if and only if every example, its side and the tokenizer are
    open: Callable[[], WholeDocuments]


def read(
    cfg: DataConfig, cache_dir: pathlib.Path, report: Callable[[str], None], kind: Kind
) -> Text:
    """Reads and checks all examples of `cfg`, and writes nothing.

    `report` gets a line when a damaged file of the cache is made anew, and lines on what
    `data.skip_bad_lines` has left out. Raises DataError when an example, a side or the tokenizer
    cannot be used.
    """
    sources = _open_sources(cfg, kind)
    wanted = wanted_tokenizer(cfg)
    read_once = _read_once(sources)
    is_heldout_N = _split(sources, read_once, cfg.heldout_fraction, kind)
    sides = hashlib.blake2b(is_heldout_N.tobytes()).hexdigest()
    closes = f"{kind.format.end} {kind.format.is_foreign}"
    identity = cache_files.digest(
        examples_file.FORMAT, read_once.digest, sides, wanted.identity, closes
    )
    path = pathlib.Path(cache_dir) / f"{kind.name}-{identity}.npz"
    cached = _open_cached(path, report)
    if cached:
        everything, used = cached
    else:
        used = wanted.make(_train_texts(sources, is_heldout_N))
        everything = _tokenize(sources, used, read_once, is_heldout_N, kind.format)
    examples = everything.kept(_fits(cfg, sources, everything))
    _expect_both_sides(sources, examples, kind)
    for source in sources:
        if source.skipped.count:
            report(f"{source.name}: {source.skipped.describe()}")
    opened = WholeDocuments(
        names=tuple(source.name for source in sources),
        kind=kind.name,
        format=kind.format,
        tokenizer=used,
        examples=examples,
        fingerprint=examples_file.fingerprint(examples, used),
        num_skipped=sum(source.skipped.count for source in sources),
    )

    def open_examples() -> WholeDocuments:
        if not cached:
            examples_file.save(path, everything, used)
        return opened

    return Text(tokenizer=used, digest=cache_files.digest(opened.fingerprint), open=open_examples)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """An entry of data.paths; `read()` starts from the beginning."""

    name: str
    read: Callable[[], Iterator[Example]]
    skipped: Skipped = field(default_factory=Skipped)


def _open_sources(cfg: DataConfig, kind: Kind) -> list[_Source]:
    if not cfg.paths:
        raise DataError(
            f"data.paths: expected .jsonl files of {kind.name}, got none; there is no default."
        )
    if cfg.text_field != DataConfig.text_field:
        raise DataError(
            f"data.text_field: {kind.name} have keys of their own, got {cfg.text_field!r}; "
            "leave it out."
        )
    return [_open(entry, cfg, kind) for entry in cfg.paths]


def _open(entry: str, cfg: DataConfig, kind: Kind) -> _Source:
    skipped, read_records = Skipped(), _reader(entry, kind.streams)

    def read_all() -> Iterator[Example]:
        skipped.clear()
        for record in read_records():
            try:
                if isinstance(record, DataError):
                    raise record
                made = [one._replace(where=record.where) for one in kind.parse(record)]
            except DataError as error:
                if not cfg.skip_bad_lines:
                    raise
                skipped.add(error)
            else:
                yield from made

    def read_limited() -> Iterator[Example]:
        left = cfg.max_bytes
        for example in read_all():
            left -= sum(len(piece.text.encode()) for pieces in example.segments for piece in pieces)
            if left < 0:
                return
            yield example

    return _Source(name=entry, read=read_limited if cfg.max_bytes else read_all, skipped=skipped)


def _reader(entry: str, streams: Streams) -> Callable[[], Iterator[jsonl.Record | DataError]]:
    if entry not in streams:
        found = records.find(entry)
        return lambda: records.read(found)

    def read_stream() -> Iterator[jsonl.Record | DataError]:
        for number, fields in enumerate(streams[entry](), start=1):
            yield jsonl.Record(fields, f"{entry}, record {number}")

    return read_stream


class _Distinct(NamedTuple):
    source: int
    example: Example
    digest: bytes


def _distinct(sources: Sequence[_Source]) -> Iterator[_Distinct]:
    """The examples of all sources, each once."""
    seen: set[bytes] = set()
    for index, source in enumerate(sources):
        for example in source.read():
            digest = hashlib.blake2b(repr(example.segments).encode(), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                yield _Distinct(index, example, digest)


class _ReadOnce(NamedTuple):
    hash_N: UInt64[np.ndarray, "N"]  # of the keys
    source_N: Int32[np.ndarray, "N"]
    digest: str  # of all examples, in order


def _read_once(sources: Sequence[_Source]) -> _ReadOnce:
    total, hashes, owners = split.new_digest(), [], []
    for one in _distinct(sources):
        total.update(b"%d " % one.source + one.digest)
        key = hashlib.blake2b(one.example.key, digest_size=8).digest()
        hashes.append(int.from_bytes(key))
        owners.append(one.source)
    return _ReadOnce(np.array(hashes, np.uint64), np.array(owners, np.int32), total.hexdigest())


def _split(
    sources: Sequence[_Source], read_once: _ReadOnce, heldout_fraction: float, kind: Kind
) -> Bool[np.ndarray, "N"]:
    """Which examples are held out, source by source."""
    is_heldout_N = np.zeros(len(read_once.source_N), bool)
    for index, source in enumerate(sources):
        is_here_N = read_once.source_N == index
        is_heldout_N[is_here_N] = heldout_of_source(
            read_once.hash_N[is_here_N], heldout_fraction, source.name, source.skipped, kind
        )
    return is_heldout_N


def heldout_of_source(
    hash_N: UInt64[np.ndarray, "N"],
    heldout_fraction: float,
    name: str,
    skipped: Skipped,
    kind: Kind,
) -> Bool[np.ndarray, "N"]:
    """Which examples of the source `name` are held out, by the hashes of their keys.

    DataError where there are not two different ones, one for each side.
    """
    if not len(hash_N):
        reason = skipped.describe() or (
            "each is in another source, too, or longer than data.max_bytes."
        )
        raise DataError(f"{name}: expected {kind.name}, got none; {reason}")
    smallest, largest = int(hash_N.min()), int(hash_N.max())
    if smallest == largest:
        raise DataError(
            f"{name}: expected at least two different {kind.keys}, one to train on and "
            f"one held out, got one; add {kind.name}."
        )
    limit = min(max(int(heldout_fraction * 2**64), smallest + 1), largest)
    return hash_N < np.uint64(limit)


def _train_texts(
    sources: Sequence[_Source], is_heldout_N: Bool[np.ndarray, "N"]
) -> Iterator[bytes]:
    for one, is_heldout in zip(_distinct(sources), is_heldout_N, strict=False):
        if not is_heldout:
            yield from (piece.text.encode() for pieces in one.example.segments for piece in pieces)


def _tokenize(
    sources: Sequence[_Source],
    used: tokenizers.Tokenizer,
    read_once: _ReadOnce,
    is_heldout_N: Bool[np.ndarray, "N"],
    fmt: chat.Format,
) -> Examples:
    total = split.new_digest()
    dtype = np.uint16 if used.vocab_size <= 2**16 else np.uint32
    tokens, origins, sizes = [np.zeros(0, dtype)], [np.zeros(0, np.uint8)], []
    for batch in itertools.batched(_distinct(sources), _BATCH_EXAMPLES):
        for one in batch:
            total.update(b"%d " % one.source + one.digest)
        segments = [pieces for one in batch for pieces in one.example.segments]
        for encoded in chat.encode_pieces(fmt, used, segments):
            tokens.append(np.array(encoded.ids, dtype))
            origins.append(np.array(encoded.origins, np.uint8))
            sizes.append(len(encoded.ids))
    if total.hexdigest() != read_once.digest:
        raise DataError("the text of data.paths changed while it was read; run again.")
    return Examples(
        tokens_T=np.concatenate(tokens),
        origin_T=np.concatenate(origins),
        ends_G=np.cumsum(sizes, dtype=np.int64),
        source_N=read_once.source_N,
        is_heldout_N=is_heldout_N,
    )


def _fits(cfg: DataConfig, sources: Sequence[_Source], examples: Examples) -> Bool[np.ndarray, "N"]:
    """Which examples a row has room for. DataError for one that is longer, unless it is skipped."""
    fits_N = examples.lengths_N <= cfg.seq_len
    if not fits_N.all():
        places = zip(_distinct(sources), fits_N, examples.lengths_N, strict=False)
        for one, fits, length in places:
            if not fits:
                error = DataError(
                    f"{one.example.where}: expected at most data.seq_len = {cfg.seq_len} tokens to "
                    f"predict, got {length}; raise data.seq_len, shorten it, "
                    "or leave such lines out with data.skip_bad_lines."
                )
                if not cfg.skip_bad_lines:
                    raise error
                sources[one.source].skipped.add(error)
    return fits_N


def _expect_both_sides(sources: Sequence[_Source], examples: Examples, kind: Kind) -> None:
    for index, source in enumerate(sources):
        sides = examples.is_heldout_N[examples.source_N == index]
        num_heldout = int(sides.sum())
        if not 0 < num_heldout < len(sides):
            raise DataError(
                f"{source.name}: expected {kind.name} to train on and some held out, got "
                f"{len(sides) - num_heldout} and {num_heldout}; {source.skipped.describe()}"
            )


def _open_cached(
    path: pathlib.Path, report: Callable[[str], None]
) -> tuple[Examples, tokenizers.Tokenizer] | None:
    if not path.exists():
        return None
    try:
        return examples_file.load(path)
    except StoreError as error:
        report(f"{error}; it is made anew from the text")
        return None
