"""Verified checkpoints of the whole train state, written by a thread of their own.

    checkpoints/<step>/state/           arrays, by Orbax
    checkpoints/<step>/manifest.json    hashes of files and arrays, and the run's notes
    checkpoints/<step>.tmp/             being written, or what a killed process left
    checkpoints/<step>.unusable/        failed verification; kept for inspection

A checkpoint exists once its folder has been renamed from .tmp, which is the last thing done. Orbax
writes the arrays only: its CheckpointManager forgets the older steps when a save fails, and then
skips later saves.
"""

import concurrent.futures
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from kanana_jax.checkpoint import manifest

# Called with the kind of an event and one line about it; also from the writing thread.
Report = Callable[[str, str], None]


class NoUsableCheckpointError(RuntimeError):
    """Checkpoints were made, and not one of them can be used."""


class Restored(NamedTuple):
    """A verified checkpoint, on the devices."""

    step: int
    state: Any
    notes: dict[str, Any]


class Checkpoints:
    """The numbered checkpoints of one run; a save returns before the bytes are on disk.

    Use as a context manager: leaving it waits for the save in flight.
    """

    def __init__(self, directory: Path, *, keep: int, report: Report):
        self._directory, self._keep, self._report = Path(directory).absolute(), keep, report
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._in_flight: concurrent.futures.Future | None = None
        self._is_failing = False
        for orphan in self._directory.glob("*.tmp"):  # left by a killed process
            shutil.rmtree(orphan, ignore_errors=True)

    def save(self, step: int, state: Any, notes: dict[str, Any]) -> None:
        """Copies `state` to the host and has it written; trouble is reported, not raised.

        `notes` is JSON that comes back with the state. Waits for the save before this one.
        """
        self.wait()
        for x in jax.tree.leaves(state):
            x.copy_to_host_async()
        # A copy: the train step is about to reuse the device's memory, which on a CPU this is.
        on_host = jax.tree.map(np.array, state)
        self._in_flight = self._thread.submit(self._write, step, on_host, notes)

    def wait(self) -> None:
        """Returns once no save is in flight."""
        if self._in_flight is not None:
            self._in_flight.result()
            self._in_flight = None

    def steps(self) -> list[int]:
        """The steps on disk, oldest first."""
        return sorted(int(path.name) for path in self._directory.glob("*") if path.name.isdigit())

    def restore_latest(self, like: Any) -> Restored | None:
        """The newest checkpoint that verifies, laid out as `like`; None when none was ever made.

        One that does not is set aside and reported. Raises NoUsableCheckpointError when that
        leaves none, and MismatchError when the newest belongs to another model or optimizer.
        """
        self.wait()
        for step in reversed(self.steps()):
            try:
                on_host, notes = self._read(step, like)
            except (manifest.MismatchError, MemoryError):
                raise
            except Exception as error:  # damaged files fail in too many ways to list
                self._set_aside(step, error)
                continue
            # Not above: a device that is short of memory says nothing about the files.
            placed = jax.device_put(on_host, jax.tree.map(lambda x: x.sharding, like))
            return Restored(step, placed, notes)
        if any(self._directory.glob("*.unusable*")):
            raise NoUsableCheckpointError(
                f"no checkpoint in {self._directory} can be used and those set aside there as "
                ".unusable show that some were made; restore one from a backup, or delete the "
                "folder to train from the start"
            )
        return None

    def _write(self, step: int, on_host: Any, notes: dict[str, Any]) -> None:
        temporary = self._directory / f"{step}.tmp"
        try:
            temporary.mkdir(parents=True)
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as arrays:
                arrays.save(temporary / "state", args=ocp.args.PyTreeSave(_not_empty(on_host)))
            manifest.write(temporary, step, on_host, notes)
            os.rename(temporary, self._directory / str(step))
        except Exception as error:  # a full disk alone has several types
            shutil.rmtree(temporary, ignore_errors=True)
            if not self._is_failing:
                self._report(
                    "save_failed",
                    f"checkpoint {step} could not be written ({_first_line(error)}); training goes "
                    f"on, checkpoints {self.steps()} stay, and the next save is tried",
                )
            self._is_failing = True
            return
        if self._is_failing:
            self._report("save_succeeded", f"checkpoint {step} was written; saving works again")
        self._is_failing = False
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self._directory / str(old), ignore_errors=True)

    def _read(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        folder = self._directory / str(step)
        content = manifest.read(folder, step, like)
        stored = _not_empty(like)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as arrays:
            args = ocp.args.PyTreeRestore(stored, restore_args=as_numpy)
            found = arrays.restore(folder / "state", args=args)
        on_host = jax.tree.map(
            lambda want, got: np.zeros(want.shape, want.dtype) if got is None else got, like, found
        )
        manifest.verify(content, on_host)
        return on_host, content["notes"]

    def _set_aside(self, step: int, error: Exception) -> None:
        taken = len(list(self._directory.glob(f"{step}.unusable*")))
        aside = self._directory / f"{step}.unusable{taken or ''}"
        os.rename(self._directory / str(step), aside)
        self._report(
            "checkpoint_unusable",
            f"checkpoint {step} cannot be used ({_first_line(error)}); it is now {aside.name}",
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.wait()
        self._thread.shutdown()


def _not_empty(tree: Any) -> Any:
    """Orbax refuses arrays of size zero, such as the router biases of a model without experts."""
    return jax.tree.map(lambda x: x if x.size else None, tree)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0][:200]
