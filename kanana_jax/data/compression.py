"""Compressed files as streams of bytes: every member of a file, and an error where one is torn."""

import bz2
import contextlib
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from kanana_jax.data.errors import DataError

_CHUNK = 2**16


@contextlib.contextmanager
def decompressed(file: BinaryIO, suffix: str, name: str) -> Iterator[io.BufferedReader]:
    """The content of `file`, which it closes; `suffix` is one of SUFFIXES, "" for plain files."""
    with io.BufferedReader(file, _CHUNK) as plain:  # pyright: ignore[reportArgumentType]
        if not suffix:
            yield plain
        elif not plain.peek(1):
            raise DataError(f"{name}: expected {suffix} data, got an empty file; fetch it again.")
        else:
            with io.BufferedReader(_OPENERS[suffix](plain), _CHUNK) as stream:
                yield stream


def _open_zstd(file: BinaryIO) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(file, "zstd")


class _Members(io.RawIOBase):
    """All members of a file, one after another. The library's own files end silently at damage
    between two of them."""

    def __init__(self, file: BinaryIO, decompressor: Callable[[], Any]):
        self._file, self._decompressor, self._member = file, decompressor, decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        out = b""
        while not out:
            chunk = b""
            if self._member.eof:
                chunk = self._member.unused_data or self._file.read(_CHUNK)
                if not chunk:
                    return 0
                self._member = self._decompressor()
            elif self._member.needs_input:
                chunk = self._file.read(_CHUNK)
                if not chunk:
                    raise EOFError("the compressed data end too early")
            out = self._member.decompress(chunk, len(buffer))
        buffer[: len(out)] = out
        return len(out)


_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": lambda file: _Members(file, bz2.BZ2Decompressor),
    ".xz": lambda file: _Members(file, lzma.LZMADecompressor),
    ".zst": _open_zstd,
}
SUFFIXES = tuple(_OPENERS)


def suffix_of(path: str) -> str:
    """The one of SUFFIXES that `path` ends in, whatever its case; "" for plain files."""
    lower = path.lower()
    return next((suffix for suffix in SUFFIXES if lower.endswith(suffix)), "")
