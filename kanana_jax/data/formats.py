"""Documents of one file, by the format that its suffix names.

    .txt .md                   the file is one document
    .json .jsonl .ndjson       one per line, or per item of an array
    .parquet .arrow .feather   one per row

Plain text and JSON may be compressed: .gz, .bz2, .xz or .zst then ends the name. Records have their
text in `text_field`; a dot leads into a record or struct inside: "message.text".
"""

import codecs
import io
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from kanana_jax.data import arrow_text, compression, json_text, utf8
from kanana_jax.data.errors import DataError

Documents = Iterator[bytes | DataError]  # an error stands for a record that cannot be used
_Reader = Callable[[io.BufferedReader, str, str], Documents]


class Format(NamedTuple):
    """How to read a file."""

    reader: _Reader
    compression: str  # a suffix; empty for plain files

    def read(self, file: BinaryIO, name: str, text_field: str) -> Documents:
        """The documents of `file`, which errors call `name`."""
        with compression.decompressed(file, self.compression, name) as stream:
            yield from self.reader(stream, name, text_field)


def format_of(path: str, name: str) -> Format:
    """The format by the suffix of `path`; `name` is for the error. DataError if unknown."""
    lower = path.lower()
    packed = compression.suffix_of(path)
    readers = _TEXT if packed else _TEXT | _ARROW
    for suffix, reader in readers.items():
        if lower.endswith(suffix + packed):
            return Format(reader, packed)
    raise DataError(
        f"expected a file ending in {', '.join(_TEXT | _ARROW)} (the first five also "
        f"with {', '.join(compression.SUFFIXES)}), got {name!r}; convert, rename or unpack it."
    )


def _read_whole(file: io.BufferedReader, name: str, text_field: str) -> Documents:
    del text_field
    content = file.read()
    utf8.decode(content, name)
    yield content.removeprefix(codecs.BOM_UTF8)


_TEXT: dict[str, _Reader] = {
    ".txt": _read_whole,
    ".md": _read_whole,
    ".json": json_text.read,
    ".jsonl": json_text.read,
    ".ndjson": json_text.read,
}
_ARROW: dict[str, _Reader] = {
    ".parquet": arrow_text.read_parquet,
    ".arrow": arrow_text.read_ipc,
    ".feather": arrow_text.read_ipc,
}
