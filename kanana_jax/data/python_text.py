"""Text that is there without a download: what a Python carries, and the packages installed in it.

`read_documents` is the default corpus: one document per module of the standard library and one per
topic of `pydoc_data`, in sorted order. The text depends on the Python version, and so does the
corpus fingerprint. `read_code` and `read_prose` are the same text in two parts that share nothing:
modules without their docstrings, and docstrings of a sentence or more, together with the topics.
`read_packages` depends on what else is installed; with this project's packages it is some ten times
as much.
"""

import ast
import functools
import hashlib
import inspect
import pathlib
import sysconfig
from collections.abc import Iterator
from typing import NamedTuple

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


# Shorter docstrings are titles.
_PROSE_BYTES = 200

# Longer modules of packages are mostly tables that a program wrote.
_MODULE_BYTES = 200_000

_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class _Parts(NamedTuple):
    """A module in two parts."""

    code: bytes
    docstrings: tuple[bytes, ...]


def read_documents() -> Iterator[bytes]:
    """Yields the documents. DataError when this Python carries no sources."""
    yield from _modules()
    yield from _topics()


def read_code() -> Iterator[bytes]:
    """Yields the modules without their docstrings."""
    yield from (parts.code for parts in _parts_of_modules())


def read_prose() -> Iterator[bytes]:
    """Yields the docstrings that are more than titles, and the topics of the language reference."""
    for parts in _parts_of_modules():
        yield from (text for text in parts.docstrings if len(text) >= _PROSE_BYTES)
    yield from _topics()


def read_packages() -> Iterator[bytes]:
    """Yields the modules of the packages installed for this Python, in an order without a pattern.

    What is not UTF-8 is replaced. DataError when there are none, or one cannot be read.
    """
    folders = dict.fromkeys(pathlib.Path(sysconfig.get_path(one)) for one in ("purelib", "platlib"))
    found = ((folder, path) for folder in folders for path in _module_paths(folder))
    keys = {
        path: hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest()
        for folder, path in found
        if path.is_file() and path.stat().st_size <= _MODULE_BYTES
    }
    if not keys:
        raise DataError(
            f"expected the .py files of packages in {', '.join(map(str, folders))}, got none; set "
            "data.paths to your own text."
        )
    for path in sorted(keys, key=keys.__getitem__):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}; set data.paths.") from error
        yield content.decode("utf-8", errors="replace").encode()


def _modules() -> Iterator[bytes]:
    paths = list(_module_paths(_root()))
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


@functools.cache
def _parts_of_modules() -> tuple[_Parts, ...]:
    """Every module that this Python can parse."""
    return tuple(parts for text in _modules() if (parts := _split(text)) is not None)


def _split(module: bytes) -> _Parts | None:
    try:
        tree = ast.parse(module)
    except (SyntaxError, ValueError):  # templates of other tools
        return None
    lines, docstrings = module.splitlines(keepends=True), []
    for node in ast.walk(tree):
        if isinstance(node, _WITH_DOCSTRING) and (text := ast.get_docstring(node, clean=False)):
            docstrings.append(inspect.cleandoc(text).encode("utf-8", errors="replace"))
            first, last = node.body[0].lineno, node.body[0].end_lineno
            assert last is not None
            lines[first - 1 : last] = [b""] * (last - first + 1)
    return _Parts(b"".join(lines), tuple(docstrings))


def _root() -> pathlib.Path:
    return pathlib.Path(sysconfig.get_path("stdlib"))


def _module_paths(root: pathlib.Path) -> Iterator[pathlib.Path]:
    found = []
    for folder, folders, names in root.walk():
        folders[:] = [name for name in folders if name not in _SKIPPED]
        # These hold paths: of the machine that built this Python, of a package's checkout.
        found += [
            folder / name
            for name in names
            if name.endswith(".py") and not name.startswith(("_sysconfigdata", "__editable__"))
        ]
    yield from sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _topics() -> Iterator[bytes]:
    from pydoc_data import topics

    for _, text in sorted(topics.topics.items()):
        yield text.encode()
