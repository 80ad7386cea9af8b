"""Documents from JSON: an object or a string per line, or an array of them.

Both are read piece by piece. A line or item that cannot be used is yielded as a DataError. Where
the syntax of an array is broken, nothing after that can be read, so the error is raised.
"""

import codecs
import functools
import io
import itertools
import json
import re
from collections.abc import Iterator
from types import NoneType
from typing import Any

from kanana_jax.data import utf8
from kanana_jax.data.errors import DataError, listed

_CHUNK = 2**20
_LONGEST = 2**28  # of a line or an item; what is longer has lost its line ends
_KINDS = {
    dict: "an object",
    list: "an array",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    NoneType: "null",
}


def _integer(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:  # Python limits the digits of an integer, which JSON does not
        return float(text)


_DECODER = json.JSONDecoder(parse_int=_integer)
_SPACE = re.compile(r"[ \t\r\n]*")
_MISSING = object()


def read(file: io.BufferedReader, name: str, text_field: str) -> Iterator[bytes | DataError]:
    """The documents of a file: items where it begins with "[", else lines."""
    begin = file.peek(1).removeprefix(codecs.BOM_UTF8).lstrip()
    records = _items if begin.startswith(b"[") else _lines
    return records(file, name, text_field)


def _lines(file: io.BufferedReader, name: str, text_field: str) -> Iterator[bytes | DataError]:
    for where, value in lines(file, name):
        if isinstance(value, DataError):
            yield value
            continue
        try:
            yield _document(value, text_field, where)
        except DataError as error:
            yield error


def lines(file: io.BufferedReader, name: str) -> Iterator[tuple[str, Any]]:
    """The place and the value of each line that is not blank; a bad one has a DataError as value.

    Raises DataError where a line is too long to be one.
    """
    numbered = enumerate(iter(functools.partial(file.readline, _LONGEST), b""), start=1)
    for number, line in numbered:
        where = f"{name}, line {number}"
        if len(line) == _LONGEST:
            raise DataError(f"{where}: expected lines of less than {_LONGEST} bytes.")
        try:
            text = utf8.decode(line, name, number)
            if text.strip():
                yield where, _parsed(text, where)
        except DataError as error:
            yield where, error


def _parsed(text: str, where: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: expected a JSON object per line, got {error.msg} at column {error.pos + 1}."
        ) from error
    except RecursionError as error:
        raise DataError(f"{where}: expected a JSON object, got one nested too deep.") from error


def _items(file: io.BufferedReader, name: str, text_field: str) -> Iterator[bytes | DataError]:
    window = _Window(file, name)
    window.take("[")
    for number in itertools.count(1):
        if number == 1 and window.peek() == "]":
            break
        value = window.value()
        try:
            yield _document(value, text_field, f"{window.where}, item {number}")
        except DataError as error:
            yield error
        if window.peek() == "]":
            break
        window.take(",")
    window.take("]")
    if window.peek():
        raise DataError(f"{window.where}: expected nothing after the array, got more.")


class _Window:
    """The part of a JSON text that is being read."""

    def __init__(self, file: io.BufferedReader, name: str):
        self._file, self._name = file, name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._place, self._line = "", 0, 1

    @property
    def where(self) -> str:
        return f"{self._name}, line {self._line}"

    def peek(self) -> str:
        """The next character that is not a space; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._place)
            assert match
            self._advance(match.end())
            if self._place < len(self._text) or not self._grow():
                return self._text[self._place : self._place + 1]

    def take(self, mark: str) -> None:
        """Moves past `mark`, which must come next."""
        got = self.peek()
        if got != mark:
            found = repr(got) if got else "the end of the file"
            raise DataError(f"{self.where}: expected {mark!r} of a JSON array, got {found}.")
        self._advance(self._place + 1)

    def value(self) -> Any:
        """Moves past the next value and returns it."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if not self._grow():
                    self._advance(error.pos)
                    raise DataError(
                        f"{self.where}: expected a value of a JSON array, got {error.msg}."
                    ) from error
            except RecursionError as error:
                raise DataError(f"{self.where}: the item is nested too deep.") from error
            else:
                # A number at the end of the window may go on.
                if end < len(self._text) or not self._grow():
                    self._advance(end)
                    return value

    def _advance(self, place: int) -> None:
        self._line += self._text.count("\n", self._place, place)
        self._place = place

    def _grow(self) -> bool:
        rest = self._text[self._place :]
        if len(rest) > _LONGEST:
            raise DataError(f"{self.where}: expected items of less than {_LONGEST} characters.")
        # Doubling keeps the time that a long item takes in proportion to its length.
        content = self._file.read(max(_CHUNK, len(rest)))
        try:
            more = self._decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            content, more = error.object, "\0"
        if "\0" in more:
            utf8.decode(content, self._name, self._line + rest.count("\n"))  # raises
        if content:
            self._text, self._place = rest + more, 0
        return bool(content)


def _document(record: Any, text_field: str, where: str) -> bytes:
    if isinstance(record, str):
        return utf8.encode(record, where)
    if not isinstance(record, dict):
        kind = _KINDS[type(record)]
        raise DataError(f"{where}: expected a JSON object or a string, got {kind}.")
    value = _find(record, text_field, where)
    # A null is a document without text; those are dropped with the other empty ones.
    if value is None:
        return b""
    if not isinstance(value, str):
        raise DataError(
            f"{where}: expected a string in {text_field!r}, got {_KINDS[type(value)]}; "
            f"set data.text_field, of {listed(_names(record))}."
        )
    return utf8.encode(value, where)


def _find(record: dict[str, Any], text_field: str, where: str) -> Any:
    inner, path = record, text_field
    while isinstance(inner, dict) and path not in inner:
        head, _, path = path.partition(".")
        inner = inner.get(head, _MISSING)
        if inner is None:
            return None
    if not isinstance(inner, dict):
        raise DataError(
            f"{where}: expected the key {text_field!r}, got {listed(_names(record))}; "
            "set data.text_field."
        )
    return inner[path]


def _names(record: dict[str, Any]) -> list[str]:
    """The keys of a record; those of a record inside it follow its key and a dot."""
    return [
        name
        for key, value in record.items()
        for name in (
            [f"{key}.{inner}" for inner in value] if isinstance(value, dict) and value else [key]
        )
    ]
