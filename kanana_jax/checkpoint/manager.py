"""Verified checkpoints of the whole train state, written by a thread of their own.

    checkpoints/<step>/state/           arrays
    checkpoints/<step>/manifest.json    hashes of the arrays, and the run's notes
    checkpoints/<step>.tmp/             being written, or what a killed process left
    checkpoints/<step>.unusable/        failed verification; kept for inspection

A checkpoint exists once its folder has been renamed from .tmp, which process 0 does when every
process has written its shards. All processes need to see the folder.
"""

import concurrent.futures
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from kanana_jax import parallel
from kanana_jax.checkpoint import manifest, shards
from kanana_jax.checkpoint.errors import first_line

# Called with the kind of an event and one line about it; also from the writing thread.
Report = Callable[[str, str], None]

_WRITTEN = "written"  # what a process tells when nothing went wrong


class NoUsableCheckpointError(RuntimeError):
    """Checkpoints were made, and not one of them can be used."""


class Restored(NamedTuple):
    """A verified checkpoint, on the devices."""

    step: int
    state: Any
    notes: dict[str, Any]


class Checkpoints:
    """The numbered checkpoints of one run; a save returns before the bytes are on disk.

    Use as a context manager: leaving it waits for the save in flight. With several processes all
    make the same calls, but process 0 alone reports.
    """

    def __init__(self, directory: Path, *, keep: int, report: Report):
        self._directory, self._keep, self._report = Path(directory).absolute(), keep, report
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._in_flight: concurrent.futures.Future | None = None
        self._is_failing = False
        self._num_saves = 0
        if parallel.is_first():
            for orphan in self._directory.glob("*.tmp"):  # left by a killed process
                shutil.rmtree(orphan, ignore_errors=True)

    def save(self, step: int, state: Any, notes: dict[str, Any]) -> None:
        """Copies `state` to the host and has it written; trouble is reported, not raised.

        `notes` is JSON that comes back with the state. Waits for the save before this one.
        """
        self.wait()
        self._num_saves += 1
        self._in_flight = self._thread.submit(self._write, step, shards.copy(state), notes)

    def wait(self) -> None:
        """Returns once no save is in flight on this process; on process 0, on none."""
        if self._in_flight is not None:
            self._in_flight.result()
            self._in_flight = None

    def steps(self) -> list[int]:
        """The steps on disk, oldest first."""
        return sorted(int(path.name) for path in self._directory.glob("*") if path.name.isdigit())

    def restore_latest(self, like: Any) -> Restored | None:
        """The newest checkpoint that verifies, laid out as `like`; None when none was ever made.

        One that does not verify on every process is set aside and reported. Raises
        NoUsableCheckpointError when that leaves none, and MismatchError when the newest belongs to
        another model or optimizer.
        """
        self.wait()
        for step in reversed(parallel.everyones(self.steps())[0]):
            found, error = ({}, {}), None
            try:
                found = self._read(step, like)
            except Exception as raised:  # damaged files fail in too many ways to list
                error = raised
            trouble = self._agree_on(error)
            if trouble is None:
                # Not above: a device that is short of memory says nothing about the files.
                return Restored(step, _place(found[0], like), found[1])
            if parallel.is_first():
                self._set_aside(step, trouble)
        if parallel.everyones(any(self._directory.glob("*.unusable*")))[0]:
            raise NoUsableCheckpointError(
                f"no checkpoint in {self._directory} can be used and those set aside there as "
                ".unusable show that some were made; restore one from a backup, or delete the "
                "folder to train from the start"
            )
        return None

    def _agree_on(self, error: Exception | None) -> str | None:
        """What is wrong with the files on any process; raises what is wrong with anything else."""
        is_fatal = isinstance(error, (manifest.MismatchError, MemoryError))
        told = parallel.everyones(error and [is_fatal, _shown(error)])
        if error is not None and is_fatal:
            raise error
        troubles = [(process, *one) for process, one in enumerate(told) if one]
        for process, is_fatal, line in troubles:
            if is_fatal:
                raise MemoryError(f"process {process}: {line}")
        return troubles[0][-1] if troubles else None

    def _write(self, step: int, shares: dict[str, shards.Share], notes: dict[str, Any]) -> None:
        temporary = self._directory / f"{step}.tmp"
        mine, trouble = self._write_part(temporary, shares)
        told = self._tell(trouble)
        if not parallel.is_first():
            return
        try:
            parts = [mine, *_others_parts(temporary, told)]
            manifest.write(temporary, step, shards.merge(parts), notes)
            os.rename(temporary, self._directory / str(step))
        except Exception as error:  # a full disk alone has several types
            shutil.rmtree(temporary, ignore_errors=True)
            if not self._is_failing:
                self._report(
                    "save_failed",
                    f"checkpoint {step} could not be written ({_shown(error)}); training goes "
                    f"on, checkpoints {self.steps()} stay, and the next save is tried",
                )
            self._is_failing = True
            return
        if self._is_failing:
            self._report("save_succeeded", f"checkpoint {step} was written; saving works again")
        self._is_failing = False
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self._directory / str(old), ignore_errors=True)

    def _write_part(
        self, temporary: Path, shares: dict[str, shards.Share]
    ) -> tuple[dict[str, shards.Entry], str]:
        """Writes this process's shards; returns what they are, and what went wrong or nothing."""
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            mine = shards.write(temporary / "state", shares)
            if not parallel.is_first():
                _part(temporary, jax.process_index()).write_text(json.dumps(mine))
        except Exception as error:  # a full disk alone has several types
            return {}, _shown(error)
        return mine, ""

    def _tell(self, trouble: str) -> list[str]:
        """Everybody's trouble on process 0, nothing on the others.

        Not by a collective: those of this thread would mix with those of training.
        """
        key = f"{self._directory.parent.name}/save-{self._num_saves}"
        told = parallel.gather_on_first(key, trouble or _WRITTEN)
        return ["" if line == _WRITTEN else line for line in told]

    def _read(self, step: int, like: Any) -> tuple[dict[str, shards.Regions], dict[str, Any]]:
        folder = self._directory / str(step)
        content = manifest.read(folder, step, like)
        on_host = {
            path: shards.read(folder / "state", path, content["leaves"][path], x)
            for path, x in shards.paths(like).items()
        }
        return on_host, content["notes"]

    def _set_aside(self, step: int, trouble: str) -> None:
        taken = len(list(self._directory.glob(f"{step}.unusable*")))
        aside = self._directory / f"{step}.unusable{taken or ''}"
        os.rename(self._directory / str(step), aside)
        self._report(
            "checkpoint_unusable",
            f"checkpoint {step} cannot be used ({trouble}); it is now {aside.name}",
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.wait()
        self._thread.shutdown()


def _part(temporary: Path, process: int) -> Path:
    """Where a process tells process 0 what it wrote."""
    return temporary / f"part-{process}.json"


def _others_parts(temporary: Path, told: list[str]) -> list[dict[str, shards.Entry]]:
    """What the others wrote; raises OSError if anyone, of whom `told` is the trouble, could not."""
    for process, line in enumerate(told):
        if line:
            raise OSError(f"process {process}: {line}" if len(told) > 1 else line)
    paths = [_part(temporary, process) for process in range(1, len(told))]
    parts = [json.loads(path.read_text()) for path in paths]
    for path in paths:
        path.unlink()
    return parts


def _place(on_host: dict[str, shards.Regions], like: Any) -> Any:
    placed = [shards.place(on_host.pop(path), x) for path, x in shards.paths(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), placed)


def _shown(error: Exception) -> str:
    return first_line(error)[:200]
