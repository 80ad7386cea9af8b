"""Text documents from files: each entry of `data.paths` is one source, a stream of UTF-8 bytes.

    .txt .md            one document per file
    .jsonl .jsonl.gz    one document per line, in the key `data.text_field`
    .parquet            one document per row, in the column `data.text_field`

An entry may be a glob and may carry any protocol fsspec knows (gs://, s3://, ...). Files are read
in sorted order. A source is read more than once, so reading starts anew with each call.
"""

import codecs
import contextlib
import glob
import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kanana_jax.config import DataConfig, some
from kanana_jax.data import python_text
from kanana_jax.data.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Source:
    """A named stream of documents; `read()` starts it from the beginning."""

    name: str
    read: Callable[[], Iterator[bytes]]


def open_sources(cfg: DataConfig) -> tuple[Source, ...]:
    """Resolves `cfg.paths`; without any, the default corpus. DataError if one is missing."""
    if not cfg.paths:
        return (_limited("python", python_text.read_documents, cfg.max_bytes),)
    return tuple(_open_entry(entry, cfg) for entry in cfg.paths)


def read_bytes(entry: str) -> bytes:
    """The whole content of one file, local or remote."""
    filesystem, paths = _resolve(entry)
    with _explained(entry):
        return filesystem.cat_file(paths[0])


def _open_entry(entry: str, cfg: DataConfig) -> Source:
    filesystem, paths = _resolve(entry)
    readers = [_reader_for(path) for path in paths]

    def read() -> Iterator[bytes]:
        for path, reader in zip(paths, readers, strict=True):
            with _explained(path), filesystem.open(path, "rb") as file:
                yield from reader(file, path, cfg.text_field)

    return _limited(entry, read, cfg.max_bytes)


def _limited(name: str, read: Callable[[], Iterator[bytes]], max_bytes: int) -> Source:
    if max_bytes <= 0:
        return Source(name=name, read=read)

    def read_limited() -> Iterator[bytes]:
        left = max_bytes
        for document in read():
            yield _head(document, left)
            left -= len(document)
            if left <= 0:
                return

    return Source(name=name, read=read_limited)


def _head(document: bytes, size: int) -> bytes:
    # Ignoring errors drops the character that the cut went through, and nothing else.
    return document[:size].decode("utf-8", errors="ignore").encode()


def _resolve(entry: str) -> tuple[Any, list[str]]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(entry)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"data.paths: {entry!r} cannot be opened: {_first_line(error)}. "
            "Install the package for this protocol, or copy the files to a local disk."
        ) from error
    with _explained(entry):
        # A file whose name holds brackets is that file, not a pattern.
        if glob.has_magic(path) and not filesystem.exists(path):
            paths = sorted(p for p in filesystem.glob(path) if not filesystem.isdir(p))
            if not paths:
                raise DataError(f"data.paths: {entry!r} matches no file; check the pattern.")
            return filesystem, paths
        if not filesystem.exists(path):
            raise DataError(f"data.paths: {entry!r} does not exist; check the path.")
        if filesystem.isdir(path):
            raise DataError(
                f"data.paths: expected a file, got the directory {entry!r}; "
                f"give a pattern such as {entry.rstrip('/') + '/*.txt'!r}."
            )
        return filesystem, [path]


@contextlib.contextmanager
def _explained(path: str):
    try:
        yield
    except DataError:
        raise
    except UnicodeError as error:
        raise DataError(
            f"{path}: expected UTF-8 text, got something else ({_first_line(error)}); "
            "convert the file to UTF-8."
        ) from error
    except Exception as error:  # drivers of remote file systems raise types of their own
        raise DataError(
            f"{path}: cannot be read: {type(error).__name__}: {_first_line(error)}; "
            "check that the file is whole and may be read."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _reader_for(path: str) -> Callable[[Any, str, str], Iterator[bytes]]:
    for suffix, reader in _READERS.items():
        if path.lower().endswith(suffix):
            return reader
    raise DataError(
        f"data.paths: expected a file ending in {', '.join(_READERS)}, got {path!r}; "
        "convert or rename it."
    )


def _read_whole(file: Any, path: str, text_field: str) -> Iterator[bytes]:
    del path, text_field
    content = file.read().removeprefix(codecs.BOM_UTF8)
    content.decode("utf-8")  # raises where it is not UTF-8
    yield content


def _read_jsonl(file: Iterable[bytes], path: str, text_field: str) -> Iterator[bytes]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield _json_text(line, f"{path}, line {number}", text_field)


def _json_text(line: bytes, where: str, text_field: str) -> bytes:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: expected one JSON object per line, got {error}.") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(record).__name__}.")
    if text_field not in record:
        raise DataError(
            f"{where}: expected the key {text_field!r}, got {some(map(repr, record))}; "
            "set data.text_field."
        )
    return _encoded(record[text_field], where, text_field)


def _read_jsonl_gz(file: Any, path: str, text_field: str) -> Iterator[bytes]:
    with gzip.open(file) as lines:
        yield from _read_jsonl(lines, path, text_field)


def _read_parquet(file: Any, path: str, text_field: str) -> Iterator[bytes]:
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(file)
    names = table.schema_arrow.names
    if text_field not in names:
        raise DataError(
            f"{path}: expected the column {text_field!r}, got {some(map(repr, names))}; "
            "set data.text_field."
        )
    for rows in table.iter_batches(columns=[text_field], batch_size=1024):
        for value in rows.column(0).to_pylist():
            yield _encoded(value, path, text_field)


def _encoded(value: Any, where: str, text_field: str) -> bytes:
    # A null is a document without text; those are dropped with the other empty ones.
    if value is None:
        return b""
    if not isinstance(value, str):
        raise DataError(
            f"{where}: expected a string in {text_field!r}, got {type(value).__name__}; "
            "set data.text_field."
        )
    return value.encode("utf-8")


_READERS = {
    ".txt": _read_whole,
    ".md": _read_whole,
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl_gz,
    ".parquet": _read_parquet,
}
