"""Files that are replaced as a whole or stay as they were."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import TextIO

from kanana_jax.data.errors import DataError, first_line


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write to. It replaces `path` if the block ends without an error, and is removed
    otherwise."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


@contextlib.contextmanager
def written(path: pathlib.Path) -> Iterator[TextIO]:
    """Opens a text file that replaces `path` if the block ends without an error.

    Missing folders above it are made. DataError where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {first_line(error)}; free space or name another file."
        ) from error
