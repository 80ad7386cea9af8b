"""Who owns the checkpoints outside of a working directory.

A working directory keeps a name of its own in checkpoints.json; the place that it writes to has the
same name in owner.json. So two directories cannot mix up their checkpoints, and one that moved
finds its own.
"""

import json
import os
import socket
import uuid
from pathlib import Path

from kanana_jax import config
from kanana_jax.checkpoint import objects
from kanana_jax.checkpoint.objects import Objects, UnreachableError

_MINE, _OWNER, _PROBE = "checkpoints.json", "owner.json", "probe"


def check(where: str, workdir: Path, *, may_take_over: bool = False, probe: bool = False) -> None:
    """Raises ConfigError unless `where` can be read and is this directory's or no one's.

    With `may_take_over` it may be another's. With `probe`, a test object is written to an object
    store, listed and deleted.
    """
    place = objects.open_objects(where)
    try:
        owner = _owner(place)
        if probe and objects.is_remote(where):
            place.write(_PROBE, b"")
            if not place.names(_PROBE):
                raise UnreachableError(f"{where} may be written but not listed")
            place.delete(_PROBE)
    except UnreachableError as error:
        raise config.ConfigError(
            f"train.checkpoint_dir cannot be used: {error}; check the name, the network and the "
            "credentials (BUILD.md, Object stores)"
        ) from error
    if owner is not None and owner["id"] != _mine(workdir) and not may_take_over:
        raise config.ConfigError(_refusal(where, owner))


def claim(where: str, workdir: Path, *, may_take_over: bool = False) -> None:
    """Makes `where` this directory's; raises ConfigError when another was faster."""
    place, mine = objects.open_objects(where), _mine(workdir)
    if mine is None:
        mine = str(uuid.uuid4())
        temporary = workdir / f"{_MINE}.tmp"
        temporary.write_text(json.dumps({"id": mine}))
        os.replace(temporary, workdir / _MINE)
    host = f"{socket.gethostname()}:{workdir.absolute()}"
    content = json.dumps({"id": mine, "workdir": host}).encode()
    if place.create(_OWNER, content):
        return
    owner = json.loads(place.read(_OWNER))
    if owner["id"] != mine and not may_take_over:
        raise config.ConfigError(_refusal(where, owner))
    place.write(_OWNER, content)


def _owner(place: Objects) -> dict[str, str] | None:
    try:
        return json.loads(place.read(_OWNER))
    except FileNotFoundError:
        return None


def _mine(workdir: Path) -> str | None:
    path = workdir / _MINE
    return json.loads(path.read_text())["id"] if path.exists() else None


def _refusal(where: str, owner: dict[str, str]) -> str:
    return (
        f"{where} holds the checkpoints of {owner['workdir']}; choose another "
        "train.checkpoint_dir, or go on from these by --set=resume.allow=train.checkpoint_dir"
    )
