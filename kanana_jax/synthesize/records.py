"""An append-only file of JSON lines, each under a key of its own.

A line is on the disk before `append` returns. A partial line that a crash left at the end is cut
away when the file is opened again; a broken line elsewhere is an error: something else wrote it.
"""

import json
import os
import pathlib
from typing import Any, Self

from kanana_jax.data.errors import DataError


class Records:
    """Opened by `with`. Values are kept in memory."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._values: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._path, "ab+")
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> Any:
        """None where there is no such key."""
        return self._values.get(key)

    def append(self, key: str, value: Any) -> None:
        """Does nothing where the key is there."""
        if key in self._values:
            return
        line = json.dumps({"key": key, "value": value}, ensure_ascii=False) + "\n"
        self._file.write(line.encode("utf-8", "backslashreplace"))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._values[key] = value

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                record = json.loads(line)
                self._values.setdefault(record["key"], record["value"])
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"{self._path}, line {number}: expected a record with key and value, got "
                    f"{line[:60]!r}; take the line out."
                ) from None
        if len(whole) < len(content):
            self._file.truncate(len(whole))
            os.fsync(self._file.fileno())
