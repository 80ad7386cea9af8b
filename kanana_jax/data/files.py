"""Entries of `data.paths` as files: a path, a glob or a URL that fsspec knows, local or remote.

A folder is read only if it says itself what it holds, as folders of Hugging Face's `save_to_disk`
do; for others the error asks for a pattern.
"""

import contextlib
import glob
import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from kanana_jax.data.errors import DataError, first_line, listed


class File(NamedTuple):
    """A file that exists."""

    filesystem: Any  # of fsspec
    path: str
    name: str  # for errors
    identity: str  # equal if and only if two entries name one file

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Opens it for reading; any error until it is closed becomes a DataError."""
        with explained(self.name), self.filesystem.open(self.path, "rb") as file:
            yield file

    def beside(self, name: str) -> bytes | None:
        """The content of another file in the same folder, if there is one."""
        path = self.path[: self.path.rfind("/") + 1] + name
        with explained(path):
            return self.filesystem.cat_file(path) if self.filesystem.isfile(path) else None


def find(entry: str) -> list[File]:
    """The files that an entry names, in sorted order. DataError if there is none."""
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(entry)
    except Exception as error:  # drivers raise types of their own
        raise DataError(
            f"{entry!r} cannot be opened: {type(error).__name__}: {first_line(error)}; "
            "check the path, install the package for its protocol, or copy the files to a local "
            "disk."
        ) from error
    with explained(entry):
        # A file whose name holds brackets is that file, not a pattern.
        if not glob.has_magic(path) or filesystem.exists(path):
            return _files_of(filesystem, path, entry, entry)
        matches = sorted(filesystem.glob(path, detail=True).items())
        found = [
            file
            for match, info in matches
            for file in _matched(filesystem, match, info["type"], entry)
        ]
        if not found:
            raise DataError(f"{entry!r} matches no file; check the pattern.")
        return found


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Any error inside becomes a DataError that gives `name`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # drivers of remote file systems raise types of their own
        raise DataError(
            f"{name}: cannot be read: {type(error).__name__}: {first_line(error)}; "
            "check that the file is whole and may be read."
        ) from error


def _matched(filesystem: Any, path: str, kind: str, entry: str) -> list[File]:
    name = _name(entry, path)
    if kind == "file":  # asking again would be a request per file
        return [File(filesystem, path, name, _identity(filesystem, path, entry))]
    # Two stars match what is in a folder, too.
    if "**" in entry and filesystem.isdir(path):
        return []
    return _files_of(filesystem, path, name, entry)


def _files_of(filesystem: Any, path: str, name: str, entry: str) -> list[File]:
    if not filesystem.exists(path):
        raise DataError(f"{name!r} does not exist; check the path.")
    if filesystem.isdir(path):
        paths = _saved_dataset(filesystem, path.rstrip("/"), name.rstrip("/"))
        return [
            File(filesystem, p, _name(entry, p), _identity(filesystem, p, entry)) for p in paths
        ]
    if not filesystem.isfile(path):
        raise DataError(
            f"expected a file, got {name!r}, which can be read only once; copy what "
            "comes from it to a file."
        )
    return [File(filesystem, path, name, _identity(filesystem, path, entry))]


def _saved_dataset(filesystem: Any, folder: str, name: str) -> list[str]:
    """The files of a folder that `datasets` has written."""
    if filesystem.exists(f"{folder}/dataset_dict.json"):
        splits = json.loads(filesystem.cat_file(f"{folder}/dataset_dict.json"))["splits"]
        raise DataError(
            f"expected one split of a dataset, got {name!r} with {listed(splits)}; "
            f"give {name + '/' + splits[0]!r}."
        )
    if not filesystem.exists(f"{folder}/state.json"):
        raise DataError(
            f"expected a file, got the directory {name!r}; give a pattern such as "
            f"{name + '/*.txt'!r}, or {name + '/**/*.parquet'!r} with the folders inside."
        )
    state = json.loads(filesystem.cat_file(f"{folder}/state.json"))
    if state.get("_indices_data_files"):
        raise DataError(
            f"expected a dataset without an indices mapping, got {name!r}; save it "
            "again after flatten_indices()."
        )
    return [f"{folder}/{one['filename']}" for one in state["_data_files"]]


def _name(entry: str, path: str) -> str:
    protocol, _, rest = entry.partition("://")
    chain = rest.partition("::")[2]
    return f"{protocol}://{path}::{chain}" if chain else path


def _identity(filesystem: Any, path: str, entry: str) -> str:
    from fsspec.implementations.local import LocalFileSystem

    if isinstance(filesystem, LocalFileSystem):
        return os.path.realpath(path)
    return f"{filesystem.unstrip_protocol(path)}::{entry.partition('::')[2]}"
