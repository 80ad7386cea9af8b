"""Records of JSON lines, read and written: an object per line, with the place of each for errors.

.jsonl .ndjson     also followed by .gz, .bz2, .xz or .zst
"""

import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from kanana_jax.data import compression, files, json_text, whole_files
from kanana_jax.data.errors import DataError, listed

_SUFFIXES = (".jsonl", ".ndjson")


class Record(NamedTuple):
    """An object, and its file and line for errors."""

    fields: dict[str, Any]
    where: str


def find(entry: str) -> list[files.File]:
    """The files of an entry of data.paths. DataError if there is none or one is not JSON lines."""
    found = files.find(entry)
    for file in found:
        _compression_of(file)
    return found


def read(found: Sequence[files.File]) -> Iterator[Record | DataError]:
    """The records of the files; an error stands for a line that cannot be used.

    Blank lines are ignored. Raises DataError where a file cannot be read further or has no record.
    """
    for file in found:
        is_empty = True
        for record in _of_file(file):
            is_empty = False
            yield record
        if is_empty:
            raise DataError(
                f"{file.name}: expected a JSON object per line, got an empty file; take it out of "
                "data.paths or write it again."
            )


def write(path: pathlib.Path, texts: Iterable[str]) -> int:
    """Writes a record {"text": ...} for every text and returns the bytes of the texts.

    The file is replaced as a whole or stays as it was. DataError where it cannot be written.
    """
    if not path.name.lower().endswith(_SUFFIXES):
        raise DataError(f"expected a file ending in {' or '.join(_SUFFIXES)}, got {str(path)!r}.")
    num_bytes = 0
    with whole_files.written(path) as file:
        for text in texts:
            num_bytes += len(text.encode())
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return num_bytes


def field(record: Record, name: str) -> Any:
    """The value under a key. DataError where the record has no such key."""
    if name not in record.fields:
        raise DataError(
            f"{record.where}: expected the key {name!r}, got {listed(record.fields)}; give each "
            "line this key."
        )
    return record.fields[name]


def kind(value: Any) -> str:
    """What a JSON value is, for an error."""
    if isinstance(value, bool):
        return "a truth value"
    kinds = {dict: "an object", list: "an array", str: "a string"} | dict.fromkeys(
        (int, float), "a number"
    )
    return kinds.get(type(value), "null")


def _of_file(file: files.File) -> Iterator[Record | DataError]:
    with (
        file.open() as opened,
        compression.decompressed(opened, _compression_of(file), file.name) as stream,
    ):
        for where, value in json_text.lines(stream, file.name):
            if isinstance(value, DataError):
                yield value
            elif isinstance(value, dict):
                yield Record(value, where)
            else:
                yield DataError(f"{where}: expected a JSON object per line, got {kind(value)}.")


def _compression_of(file: files.File) -> str:
    lower, packed = file.path.lower(), compression.suffix_of(file.path)
    if not lower.removesuffix(packed).endswith(_SUFFIXES):
        raise DataError(
            f"expected a file ending in {', '.join(_SUFFIXES)} (also with "
            f"{', '.join(compression.SUFFIXES)}), got {file.name!r}; write one JSON object per "
            "line."
        )
    return packed
