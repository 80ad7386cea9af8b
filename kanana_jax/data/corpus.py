"""Open a corpus: read the text, split it, tokenize it once, and keep the tokens in a cache.

    data.paths -> sources -> split by content hash -> tokenizer -> token store -> Corpus

The text is read at every start, because only its content says whether a cached store is still the
right one. Nothing is written before all of it was read and found long enough.
"""

import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from kanana_jax.config import DataConfig
from kanana_jax.data import cache_files, sources, split, store, tokenizer, wanted_tokenizer
from kanana_jax.data.errors import DataError, StoreError


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Tokens to train on and to evaluate on, one array per source and side."""

    names: tuple[str, ...]  # of the sources, as in data.paths
    tokenizer: tokenizer.Tokenizer
    train: tuple[store.TokenArray, ...]
    heldout: tuple[store.TokenArray, ...]
    fingerprint: str  # equal if and only if every token, document end and the tokenizer are
    num_skipped: int = 0  # lines and rows left out by data.skip_bad_lines

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def describe(self) -> str:
        """One line: sources, documents, tokens and bytes per token."""
        sides = [*self.train, *self.heldout]
        num_tokens = sum(side.num_tokens for side in sides)
        num_documents = sum(side.num_documents for side in sides)
        return (
            f"{len(self.names)} source(s), {num_documents:,} documents, "
            f"{sum(side.num_tokens for side in self.train):,} tokens to train on, "
            f"{sum(side.num_tokens for side in self.heldout):,} held out, "
            f"{sum(side.num_bytes for side in sides) / num_tokens:.2f} bytes per token"
        )


@dataclass(frozen=True, kw_only=True)
class Text:
    """Text that was read and found long enough. `open` writes its tokens, unless they are there."""

    tokenizer: tokenizer.Tokenizer
    digest: str  # equal if and only if every document, its side and the tokenizer are
    open: Callable[[], Corpus]


def open_corpus(
    cfg: DataConfig,
    cache_dir: pathlib.Path,
    report: Callable[[str], None] = lambda line: None,
) -> Corpus:
    """Reads the text of `cfg` and returns its tokens, from `cache_dir` if they are there.

    `report` gets a line when a damaged store is built anew from the text, and lines on what
    `data.skip_bad_lines` has left out. Raises DataError, before anything is written, when the text
    or the tokenizer cannot be used.
    """
    return read_text(cfg, cache_dir, report).open()


def read_text(
    cfg: DataConfig,
    cache_dir: pathlib.Path,
    report: Callable[[str], None] = lambda line: None,
    streams: sources.Streams | None = None,
) -> Text:
    """`open_corpus` in two steps; the first writes nothing.

    `streams` are sources that data.paths may name besides files, each a function that yields the
    same documents every time.
    """
    wanted = wanted_tokenizer.wanted_tokenizer(cfg)
    opened = sources.open_sources(cfg, streams)
    rules = [split.split_rule(source, cfg.heldout_fraction) for source in opened]
    pieces = lambda: split.split_sources(opened, rules)  # noqa: E731
    text = split.text_digest(pieces())
    num_skipped = sum(source.skipped.count for source in opened)
    for source in opened:
        if source.skipped.count:
            report(f"{source.name}: {source.skipped.describe()}")
    name = cache_files.digest(store.FORMAT, text, wanted.identity)
    path = pathlib.Path(cache_dir) / f"tokens-{name}"
    cached = _open_cached(path, report)
    used = cached.tokenizer if cached else wanted.make(_train_texts(pieces()))
    _check_length(cfg, opened, pieces(), used)

    def open_tokens() -> Corpus:
        found = cached or _build(path, pieces, len(opened), used, text)
        return Corpus(
            names=tuple(source.name for source in opened),
            tokenizer=used,
            train=found.train,
            heldout=found.heldout,
            fingerprint=found.fingerprint,
            num_skipped=num_skipped,
        )

    return Text(tokenizer=used, digest=cache_files.digest(text, used.digest), open=open_tokens)


def _train_texts(pieces: Iterable[tuple[int, split.Piece]]) -> Iterator[bytes]:
    return (piece.text for _, piece in pieces if not piece.is_heldout)


def _check_length(
    cfg: DataConfig,
    opened: Sequence[sources.Source],
    pieces: Iterable[tuple[int, split.Piece]],
    used: tokenizer.Tokenizer,
) -> None:
    # Reads on only until each source has proved long enough.
    window, batch = cfg.seq_len + 1, cfg.seq_len * cfg.batch_size + 1
    num_tokens = [0] * len(opened)
    for index, piece in pieces:
        if not piece.is_heldout and num_tokens[index] < batch:
            num_tokens[index] += len(used.encode_documents([piece.text])[0])
        if min(num_tokens) >= batch:
            return
    for source, count in zip(opened, num_tokens, strict=True):
        if count < window:
            raise DataError(
                f"{source.name}: expected at least seq_len + 1 = {window} distinct tokens to train "
                f"on, got {count} after removing duplicate and held-out text; add text or lower "
                "data.seq_len."
            )
    if sum(num_tokens) < batch:
        raise DataError(
            f"{', '.join(source.name for source in opened)}: expected at least batch_size * "
            f"seq_len + 1 = {batch} tokens to train on, got {sum(num_tokens)} after removing "
            "duplicate and held-out text; add text or lower data.batch_size or data.seq_len."
        )


def _open_cached(path: pathlib.Path, report: Callable[[str], None]) -> store.Store | None:
    if not path.exists():
        return None
    try:
        return store.open_store(path)
    except StoreError as error:
        report(f"{error}; it is built anew from the text")
        return None


def _build(
    path: pathlib.Path,
    pieces: Callable[[], Iterable[tuple[int, split.Piece]]],
    num_sources: int,
    used: tokenizer.Tokenizer,
    text: str,
) -> store.Store:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with cache_files.locked(path):
            # Another process may have built it while this one waited for the lock.
            built = _open_cached(path, lambda line: None)
            return built or _write(path, pieces, num_sources, used, text)
    except DataError:
        raise
    except (OSError, ValueError) as error:  # TensorStore reports a full disk as ValueError
        raise DataError(
            f"data.cache_dir: cannot write the token store {path}: {str(error).splitlines()[0]}; "
            "free space or set data.cache_dir to a folder that can be written."
        ) from error


def _write(
    path: pathlib.Path,
    pieces: Callable[[], Iterable[tuple[int, split.Piece]]],
    num_sources: int,
    used: tokenizer.Tokenizer,
    text: str,
) -> store.Store:
    # Whoever left these held the lock, so it is dead.
    for orphan in path.parent.glob(f".{path.name}-*"):
        shutil.rmtree(orphan)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        written = split.new_digest()
        store.write_store(folder, split.digesting(pieces(), written), num_sources, used, text)
        if written.hexdigest() != text:
            raise DataError("the text of data.paths changed while it was read; run again.")
        if path.exists():
            shutil.rmtree(path)
        os.rename(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return store.open_store(path)
