"""Where the checkpoints of one run lie, how they come to exist, and how they cease to.

    in a folder         in an object store               meaning
    <step>.tmp/         <name>/                          being written, or a killed process's
    <step>/             <name>/, marks/finished/<name>   exists
    <step>.unusable/    <name>/, marks/unusable/<name>   failed verification; kept for inspection

A folder is renamed. An object store renames nothing, but writes an object whole or not at all:
there the empty object marks/finished/<name>, written last, makes the checkpoint. <name> is the step
and a part that no other save has, so that nothing is ever overwritten.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Protocol

from kanana_jax.checkpoint import objects
from kanana_jax.checkpoint.objects import Objects, UnreachableError

_FINISHED, _UNUSABLE = "marks/finished", "marks/unusable"
# Always there: TensorStore (0.1.86) takes a listing that Cloud Storage refuses for an empty one.
_LISTED = "marks/listed"
_NAME = re.compile(r"\d+-[^/]+")


class Place(Protocol):
    """A save is begun by every process, with the same `save`; process 0 does all else.

    `save` is letters, digits and "-", and belongs to this save alone. A call that an object store
    does not answer raises UnreachableError.
    """

    def finished(self) -> dict[int, str]:
        """The name of the checkpoint of each step that has one, oldest first."""
        ...

    def content(self, name: str) -> Objects: ...

    def begin(self, step: int, save: str) -> Objects:
        """Where to write it."""
        ...

    def finish(self, step: int, save: str) -> None:
        """Makes it exist, all at once."""
        ...

    def abandon(self, step: int, save: str) -> None:
        """Removes what was written, as far as that is possible."""
        ...

    def remove(self, name: str) -> None: ...

    def set_aside(self, name: str) -> str:
        """Makes a checkpoint one that does not exist; returns what it is now called."""
        ...

    def has_unusable(self) -> bool: ...

    def prepare(self) -> None:
        """Removes what killed processes were writing; called once, before anything else."""
        ...


def place_of(checkpoint_dir: str, experiment: str, run: Path) -> str:
    """The folder or URL of the checkpoints of the run in the folder `run`."""
    if not checkpoint_dir:
        return str(run / "checkpoints")
    return f"{shared_place(checkpoint_dir, experiment)}/{run.name}"


def shared_place(checkpoint_dir: str, experiment: str) -> str:
    """The place in a train.checkpoint_dir that all runs of an experiment share."""
    return f"{checkpoint_dir.rstrip('/')}/{experiment}"


def newest_step(where: Path | str) -> int | None:
    """The step of the newest checkpoint, 0 where none is usable, None where none can be seen."""
    place = open_place(where)
    try:
        return max(place.finished(), default=0 if place.has_unusable() else None)
    except UnreachableError:
        return None


def open_place(where: Path | str) -> Place:
    if objects.is_remote(where):
        return _ObjectStore(objects.open_objects(where))
    return _Folder(Path(where).absolute())


class _Folder:
    def __init__(self, root: Path):
        self._root = root

    def finished(self) -> dict[int, str]:
        names = [path.name for path in self._root.glob("*") if path.name.isdigit()]
        return {int(name): name for name in sorted(names, key=int)}

    def content(self, name: str) -> Objects:
        return objects.open_objects(self._root / name)

    def begin(self, step: int, save: str) -> Objects:
        self._temporary(step).mkdir(parents=True, exist_ok=True)
        return objects.open_objects(self._temporary(step))

    def finish(self, step: int, save: str) -> None:
        os.rename(self._temporary(step), self._root / str(step))

    def abandon(self, step: int, save: str) -> None:
        shutil.rmtree(self._temporary(step), ignore_errors=True)

    def remove(self, name: str) -> None:
        shutil.rmtree(self._root / name, ignore_errors=True)

    def set_aside(self, name: str) -> str:
        taken = len(list(self._root.glob(f"{name}.unusable*")))
        aside = self._root / f"{name}.unusable{taken or ''}"
        os.rename(self._root / name, aside)
        return aside.name

    def has_unusable(self) -> bool:
        return any(self._root.glob("*.unusable*"))

    def prepare(self) -> None:
        for orphan in self._root.glob("*.tmp"):
            shutil.rmtree(orphan, ignore_errors=True)

    def _temporary(self, step: int) -> Path:
        return self._root / f"{step}.tmp"


class _ObjectStore:
    def __init__(self, root: Objects):
        self._root = root

    def finished(self) -> dict[int, str]:
        marks = self._marks()
        names = marks[_FINISHED] - marks[_UNUSABLE]
        return {_step(name): name for name in sorted(names, key=lambda name: (_step(name), name))}

    def content(self, name: str) -> Objects:
        return self._root.below(name)

    def begin(self, step: int, save: str) -> Objects:
        return self._root.below(f"{step}-{save}")

    def finish(self, step: int, save: str) -> None:
        self._root.write(f"{_FINISHED}/{step}-{save}", b"")

    def abandon(self, step: int, save: str) -> None:
        self.remove(f"{step}-{save}")

    def remove(self, name: str) -> None:
        # What stays without its mark does not exist, and goes at the next start.
        with contextlib.suppress(UnreachableError):
            self._root.delete(f"{_FINISHED}/{name}")
            self._root.delete_all(name)

    def set_aside(self, name: str) -> str:
        self._root.write(f"{_UNUSABLE}/{name}", b"")
        self._root.delete(f"{_FINISHED}/{name}")
        return f"{_UNUSABLE}/{name}"

    def has_unusable(self) -> bool:
        return bool(self._marks()[_UNUSABLE])

    def prepare(self) -> None:
        self._root.write(_LISTED, b"")
        marks = self._marks()
        written = {name.partition("/")[0] for name in self._root.names()}
        for name in written - marks[_FINISHED] - marks[_UNUSABLE]:
            if _NAME.fullmatch(name):
                self._root.delete_all(name)

    def _marks(self) -> dict[str, set[str]]:
        """The names under each mark."""
        found = self._root.names("marks/")
        if _LISTED not in (f"marks/{name}" for name in found):
            raise UnreachableError(f"{self._root} holds no checkpoints, or may not be listed")
        marks: dict[str, set[str]] = {_FINISHED: set(), _UNUSABLE: set()}
        for kind, _, name in (one.rpartition("/") for one in found):
            marks.setdefault(f"marks/{kind}", set()).add(name)
        return marks


def _step(name: str) -> int:
    return int(name.partition("-")[0])
