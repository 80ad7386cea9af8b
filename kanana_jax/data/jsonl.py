"""Records from JSON lines: an object per line, with the place of each for errors.

.jsonl .ndjson     also with .gz, .bz2, .xz or .zst behind that
"""

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from kanana_jax.data import compression, files, utf8
from kanana_jax.data.errors import DataError, listed

_SUFFIXES = (".jsonl", ".ndjson")
_LONGEST = 2**28  # bytes of a line; what is longer has lost its line ends
# Python limits the digits of an integer, which JSON does not.
_DECODER = json.JSONDecoder(parse_int=float)


class Record(NamedTuple):
    """An object, and its file and line for errors."""

    fields: dict[str, Any]
    where: str


def find(entry: str) -> list[files.File]:
    """The files of an entry of data.paths. DataError if there is none or one is no JSON lines."""
    found = files.find(entry)
    for file in found:
        _compression_of(file)
    return found


def read(found: Sequence[files.File]) -> Iterator[Record | DataError]:
    """The records of the files; an error stands for a line that cannot be used.

    Blank lines are passed over. Raises DataError where a file cannot be read on or has no record.
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
    kinds = {dict: "an object", list: "an array", str: "a string", float: "a number"}
    return kinds.get(type(value), "null")


def _of_file(file: files.File) -> Iterator[Record | DataError]:
    with (
        file.open() as opened,
        compression.decompressed(opened, _compression_of(file), file.name) as stream,
    ):
        lines = iter(functools.partial(stream.readline, _LONGEST), b"")
        for number, line in enumerate(lines, start=1):
            where = f"{file.name}, line {number}"
            if len(line) == _LONGEST:
                raise DataError(f"{where}: expected lines of less than {_LONGEST} bytes.")
            try:
                text = utf8.decode(line, file.name, number)
                if text.strip():
                    yield Record(_parsed(text, where), where)
            except DataError as error:
                yield error


def _compression_of(file: files.File) -> str:
    lower = file.path.lower()
    packed = next((suffix for suffix in compression.SUFFIXES if lower.endswith(suffix)), "")
    if not lower.removesuffix(packed).endswith(_SUFFIXES):
        raise DataError(
            f"expected a file ending in {', '.join(_SUFFIXES)} (also with "
            f"{', '.join(compression.SUFFIXES)}), got {file.name!r}; write one JSON object per "
            "line."
        )
    return packed


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: expected a JSON object per line, got {error.msg} at column {error.pos + 1}."
        ) from error
    except RecursionError as error:
        raise DataError(f"{where}: expected a JSON object, got one nested too deep.") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object per line, got {kind(value)}.")
    return value
