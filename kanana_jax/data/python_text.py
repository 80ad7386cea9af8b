"""The default corpus: the sources and language reference that every Python carries; no download.

One document per module of the standard library and one per topic of `pydoc_data`, in sorted order.
The text depends on the Python version, and so does the corpus fingerprint.
"""

import pathlib
import sysconfig
from collections.abc import Iterator

from kanana_jax.data.errors import DataError

# Tests, installed packages, and modules that are generated tables.
_SKIPPED = {
    "__pycache__",
    "dist-packages",
    "encodings",
    "idle_test",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
}


def read_documents() -> Iterator[bytes]:
    """Yields the documents. DataError when this Python carries no sources."""
    paths = list(_module_paths())
    if not paths:
        raise DataError(
            f"expected the standard library's .py files in {_root()}, got none; "
            "this Python carries no sources: set data.paths to your own text."
        )
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read: {error}; set data.paths.") from error
        yield text.encode()
    yield from _topics()


def _root() -> pathlib.Path:
    return pathlib.Path(sysconfig.get_path("stdlib"))


def _module_paths() -> Iterator[pathlib.Path]:
    root = _root()
    found = []
    for folder, folders, names in root.walk():
        folders[:] = [name for name in folders if name not in _SKIPPED]
        # _sysconfigdata holds the paths of the machine that built this Python.
        found += [
            folder / name
            for name in names
            if name.endswith(".py") and not name.startswith("_sysconfigdata")
        ]
    yield from sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _topics() -> Iterator[bytes]:
    from pydoc_data import topics

    for _, text in sorted(topics.topics.items()):
        yield text.encode()
