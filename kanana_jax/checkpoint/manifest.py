"""What a checkpoint holds: a hash of every file, and shape, dtype and hash of every array.

Orbax checks neither the arrays nor the commit marker: one flipped bit restores without an error.
The files are checked before Orbax reads them, because of damaged ones it prints pages; the arrays
after, which covers all between the training thread's memory and this one's.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

_NAME = "manifest.json"


class MismatchError(ValueError):
    """A sound checkpoint of another model or optimizer: the configuration is at fault."""


class DamagedError(ValueError):
    """A checkpoint whose content is not what was saved."""


def write(folder: Path, step: int, tree: Any, notes: dict[str, Any]) -> None:
    """Describes `tree`, host arrays, and the files of `folder` that hold it.

    `notes` is JSON that belongs to the checkpoint.
    """
    leaves = {path: _shape(x) | {"hash": _hash(x)} for path, x in _leaves(tree).items()}
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {str(path.relative_to(folder)): _file_hash(path) for path in paths}
    content = {"step": step, "notes": notes, "files": files, "leaves": leaves}
    sealed = content | {"checksum": _checksum(content)}
    (folder / _NAME).write_text(json.dumps(sealed, indent=1))


def read(folder: Path, step: int, like: Any) -> dict[str, Any]:
    """Reads what `write` wrote, sound and of a tree like `like`.

    Raises DamagedError, or MismatchError when the manifest is sound but describes another tree.
    """
    content = load(folder, step)
    saved = {path: {k: x[k] for k in ("shape", "dtype")} for path, x in content["leaves"].items()}
    _expect_same(folder, saved, {path: _shape(x) for path, x in _leaves(like).items()})
    check_files(folder, content)
    return content


def load(folder: Path, step: int) -> dict[str, Any]:
    """The manifest itself; raises DamagedError when it is not the one written for `step`."""
    content = json.loads((folder / _NAME).read_text())
    checksum = content.pop("checksum")
    if checksum != _checksum(content) or content["step"] != step:
        raise DamagedError(f"its {_NAME} is not what was written")
    return content


def check_files(folder: Path, content: dict[str, Any]) -> None:
    """Raises DamagedError at the first file that is not what the manifest says."""
    for name, wanted in content["files"].items():
        if _file_hash(folder / name) != wanted:
            raise DamagedError(f"{name} is not what was written")


def verify(content: dict[str, Any], tree: Any) -> None:
    """Raises DamagedError when a host array of `tree` is not the one that was saved."""
    for path, x in _leaves(tree).items():
        saved = content["leaves"][path]
        if _shape(x) | {"hash": _hash(x)} != saved:
            raise DamagedError(f"{path} is not what was saved")


def _expect_same(folder: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = sorted(p for p in saved.keys() | wanted.keys() if saved.get(p) != wanted.get(p))
    if differing:
        first = differing[0]
        raise MismatchError(
            f"checkpoint {folder} does not fit this model and optimizer in {len(differing)} "
            f"arrays: {first} is {wanted.get(first)} here and {saved.get(first)} there; continue "
            "with the settings it was made with, or choose another --workdir"
        )


def _leaves(tree: Any) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


def _shape(x: Any) -> dict[str, Any]:
    return {"shape": list(x.shape), "dtype": np.dtype(x.dtype).name}


def _hash(x: np.ndarray) -> str:
    # As bytes: hashlib takes no bfloat16. It releases the GIL, so the training thread goes on.
    raw = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    return hashlib.blake2b(raw.data, digest_size=16).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
