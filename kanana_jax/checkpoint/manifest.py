"""What a checkpoint holds: shape, dtype and a hash per chunk of every array, and the run's notes.

Neither zarr nor Orbax checks arrays: one flipped bit restores without an error. The hashes are of
the copy in memory, so they cover all between the training thread's memory and the reader's.
"""

import json
from typing import Any

from kanana_jax.checkpoint import shards
from kanana_jax.checkpoint.objects import Objects
from kanana_jax.checkpoint.shards import DamagedError
from kanana_jax.errors import UserError

_NAME = "manifest.json"


class MismatchError(UserError, ValueError):
    """A sound checkpoint of another model or optimizer: the configuration is at fault."""


def write(
    folder: Objects, step: int, leaves: dict[str, shards.Entry], notes: dict[str, Any]
) -> None:
    """Describes the arrays below `folder`; `notes` is JSON that belongs to the checkpoint."""
    content = {"step": step, "notes": notes, "leaves": leaves}
    sealed = content | {"checksum": _checksum(content)}
    folder.write(_NAME, json.dumps(sealed, indent=1).encode())


def read(folder: Objects, step: int, like: Any) -> dict[str, Any]:
    """Reads what `write` wrote; it is sound and describes a tree like `like`.

    Raises DamagedError, or MismatchError when the manifest is sound but describes another tree.
    """
    content = load(folder, step)
    saved = {path: {k: x[k] for k in ("shape", "dtype")} for path, x in content["leaves"].items()}
    _expect_same(folder, saved, shards.describe(like))
    return content


def load(folder: Objects, step: int) -> dict[str, Any]:
    """The manifest itself; raises DamagedError when it is not the one written for `step`."""
    content = json.loads(folder.read(_NAME))
    checksum = content.pop("checksum")
    if checksum != _checksum(content) or content["step"] != step:
        raise DamagedError(f"its {_NAME} is not what was written")
    return content


def _expect_same(folder: Objects, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = sorted(p for p in saved.keys() | wanted.keys() if saved.get(p) != wanted.get(p))
    if differing:
        first = differing[0]
        raise MismatchError(
            f"checkpoint {folder} does not fit this model and optimizer in {len(differing)} "
            f"arrays: {first} is {wanted.get(first)} here and {saved.get(first)} there; continue "
            "with the settings it was made with, or choose another --workdir"
        )


def _checksum(content: dict[str, Any]) -> str:
    return shards.hash_bytes(json.dumps(content, sort_keys=True).encode())
