"""Sources: each entry of `data.paths` is one, a stream of UTF-8 documents.

`files` says what an entry may name and `formats` what is read. A source is read more than once, so
reading starts anew with each call.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kanana_jax.config import DataConfig
from kanana_jax.data import files, formats, python_text
from kanana_jax.data.errors import DataError


@dataclass(kw_only=True)
class Skipped:
    """The lines, items and rows that the newest reading of a source has left out."""

    count: int = 0
    first: str = ""  # why

    def add(self, error: DataError) -> None:
        self.count += 1
        self.first = self.first or str(error)

    def describe(self) -> str:
        return f"{self.count:,} line(s) left out, the first: {self.first}" if self.count else ""

    def clear(self) -> None:
        self.count, self.first = 0, ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A named stream of documents; `read()` starts it from the beginning."""

    name: str
    read: Callable[[], Iterator[bytes]]
    skipped: Skipped = field(default_factory=Skipped)


Streams = Mapping[str, Callable[[], Iterator[bytes]]]

# Entries of data.paths that are no files, for all that reads text.
BUILT_IN: Streams = {"python:packages": python_text.read_packages}


def open_sources(cfg: DataConfig, streams: Streams | None = None) -> tuple[Source, ...]:
    """Resolves `cfg.paths`; without any, the default corpus. DataError if one cannot be read.

    An entry that names one of `streams` or of BUILT_IN stands for what that function yields, not
    for a file.
    """
    if not cfg.paths:
        return (_limited(Source(name="python", read=python_text.read_documents), cfg.max_bytes),)
    streams = {**BUILT_IN, **(streams or {})}
    found = [[] if entry in streams else files.find(entry) for entry in cfg.paths]
    _expect_distinct(cfg.paths, found)
    opened = (
        Source(name=entry, read=streams[entry]) if entry in streams else _open(entry, part, cfg)
        for entry, part in zip(cfg.paths, found, strict=True)
    )
    return tuple(_limited(source, cfg.max_bytes) for source in opened)


def _expect_distinct(entries: Sequence[str], found: Sequence[Sequence[files.File]]) -> None:
    owners: dict[str, int] = {}
    for index, part in enumerate(found):
        for file in part:
            owner = owners.setdefault(file.identity, index)
            if owner != index:
                raise DataError(
                    f"data.paths: expected each file in one source, got {file.name!r} in "
                    f"{entries[owner]!r} and {entries[index]!r}; take it out of one of them."
                )


def _open(entry: str, found: Sequence[files.File], cfg: DataConfig) -> Source:
    formats_of = [formats.format_of(file.path, file.name) for file in found]
    skipped = Skipped()

    def read() -> Iterator[bytes]:
        skipped.clear()
        for file, format in zip(found, formats_of, strict=True):
            with file.open() as opened:
                for document in format.read(opened, file.name, cfg.text_field):
                    if isinstance(document, bytes):
                        yield document
                    elif cfg.skip_bad_lines:
                        skipped.add(document)
                    else:
                        raise document

    return Source(name=entry, read=read, skipped=skipped)


def _limited(source: Source, max_bytes: int) -> Source:
    if max_bytes <= 0:
        return source

    def read_limited() -> Iterator[bytes]:
        left = max_bytes
        for document in source.read():
            yield _head(document, left)
            left -= len(document)
            if left <= 0:
                return

    return Source(name=source.name, read=read_limited, skipped=source.skipped)


def _head(document: bytes, size: int) -> bytes:
    # Ignoring errors drops the character that the cut went through, and nothing else.
    return document[:size].decode("utf-8", errors="ignore").encode()
