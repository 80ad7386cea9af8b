"""Train and held-out text, decided document by document from the content alone.

    held out  <=>  hash(document) < heldout_fraction * 2^64

The rule looks neither at order nor at names, so adding files moves no other document across.
Identical documents are kept once. A source with so few documents that fewer than eight would be
held out is judged block by block instead: each document is cut at paragraph ends into blocks of at
most 4 KiB; neighbouring blocks with the same verdict stay one document. If no hash falls
under the limit, the smallest one is held out; if all do, the largest one is trained on. A source of
one block, a single short text, is cut into blocks of at most 64 bytes.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from kanana_jax.data.errors import DataError
from kanana_jax.data.sources import Source

_BLOCK_BYTES = (4096, 64)  # the first that leaves text on both sides
_MIN_HELDOUT_DOCUMENTS = 8


class Rule(NamedTuple):
    """How one source is split: the longest block, and the limit of the hash."""

    block_bytes: int  # 0: documents stay whole
    limit: int


class Piece(NamedTuple):
    """A document after the split."""

    text: bytes
    is_heldout: bool


def split_rule(source: Source, heldout_fraction: float) -> Rule:
    """Chooses the rule of a source. DataError when the source holds too little text."""
    documents = lambda: (text for text in source.read() if text.strip())  # noqa: E731
    many = math.ceil(min(_MIN_HELDOUT_DOCUMENTS / heldout_fraction, 2.0**62))
    num_documents = sum(1 for _ in itertools.islice(documents(), many))
    if not num_documents:
        reason = source.skipped.describe() or "the source is empty."
        raise DataError(f"{source.name}: expected text, got none; {reason}")
    for block_bytes in _BLOCK_BYTES if num_documents < many else (0, *_BLOCK_BYTES):
        limit = _limit(documents(), block_bytes, heldout_fraction)
        if limit is not None:
            return Rule(block_bytes, limit)
    raise DataError(
        f"{source.name}: expected distinct text for a training and a held-out part, got no two "
        f"blocks of {_BLOCK_BYTES[-1]} bytes; add text."
    )


def _limit(documents: Iterable[bytes], block_bytes: int, heldout_fraction: float) -> int | None:
    """The limit nearest to the fraction that leaves blocks on both sides; None if there is none."""
    limit, smallest, largest = int(heldout_fraction * 2**64), 2**64, -1
    for block in itertools.chain.from_iterable(_blocks(text, block_bytes) for text in documents):
        value = _hash(block)
        smallest, largest = min(smallest, value), max(largest, value)
        if smallest < limit <= largest:
            break
    return min(max(limit, smallest + 1), largest) if smallest < largest else None


def split_sources(sources: Sequence[Source], rules: Sequence[Rule]) -> Iterator[tuple[int, Piece]]:
    """Yields (source index, piece) over all sources, each document once."""
    seen: set[bytes] = set()
    for index, (source, rule) in enumerate(zip(sources, rules, strict=True)):
        for text in source.read():
            digest = hashlib.blake2b(text, digest_size=16).digest()
            if text.strip() and digest not in seen:
                seen.add(digest)
                for piece in _pieces(text, rule):
                    yield index, piece


def text_digest(pieces: Iterable[tuple[int, Piece]]) -> str:
    """Identifies the split text: every piece, its source and its side, in order."""
    total = new_digest()
    for _ in digesting(pieces, total):
        pass
    return total.hexdigest()


def new_digest() -> hashlib.blake2b:
    """The hash that `text_digest` and `digesting` use."""
    return hashlib.blake2b(digest_size=16)


def digesting(
    pieces: Iterable[tuple[int, Piece]], total: hashlib.blake2b
) -> Iterator[tuple[int, Piece]]:
    """Passes the pieces on and adds them to the hash on their way."""
    for index, piece in pieces:
        total.update(f"{index} {piece.is_heldout} {len(piece.text)} ".encode())
        total.update(piece.text)
        yield index, piece


def _pieces(text: bytes, rule: Rule) -> Iterator[Piece]:
    is_heldout: Callable[[bytes], bool] = lambda block: _hash(block) < rule.limit  # noqa: E731
    for side, blocks in itertools.groupby(_blocks(text, rule.block_bytes), key=is_heldout):
        yield Piece(text=b"".join(blocks), is_heldout=side)


def _blocks(text: bytes, block_bytes: int) -> Iterator[bytes]:
    begin = 0
    while block_bytes and len(text) - begin > block_bytes:
        end = _cut(text, begin, block_bytes)
        yield text[begin:end]
        begin = end
    yield text[begin:]


def _cut(text: bytes, begin: int, block_bytes: int) -> int:
    # Not before the middle, so that a lone heading does not become a block.
    middle, end = begin + block_bytes // 2, begin + block_bytes
    for separator in (b"\n\n", b"\n", b" "):
        found = text.rfind(separator, middle, end)
        if found >= 0:
            return found + len(separator)
    while text[end] & 0b1100_0000 == 0b1000_0000:  # inside a UTF-8 character
        end -= 1
    return end


def _hash(block: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(block, digest_size=8).digest())
