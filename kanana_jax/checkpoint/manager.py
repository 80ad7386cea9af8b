"""Verified checkpoints of the whole train state, written by a thread of their own.

    <checkpoint>/state/           arrays
    <checkpoint>/manifest.json    hashes of the arrays, and the run's notes

Every process writes its shards; once all have, process 0 makes the checkpoint exist. `places` says
how it does that in a folder and in an object store. All processes need to see the place.
"""

import concurrent.futures
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from kanana_jax import parallel
from kanana_jax.checkpoint import manifest, places, shards
from kanana_jax.checkpoint.errors import first_line
from kanana_jax.checkpoint.objects import Objects, UnreachableError
from kanana_jax.errors import UserError

# Called with the kind of an event and one line about it; also from the writing thread.
Report = Callable[[str, str], None]

_WRITTEN = "written"  # what a process reports when nothing went wrong


class NoUsableCheckpointError(UserError, RuntimeError):
    """Checkpoints were made, and not one of them can be used."""

    exit_code = 3


class Restored(NamedTuple):
    """A verified checkpoint, on the devices."""

    step: int
    state: Any
    notes: dict[str, Any]


class Checkpoints:
    """The numbered checkpoints of one run; a save returns before the bytes are on disk.

    Use as a context manager: leaving it waits for the save in flight. With several processes all
    make the same calls, but process 0 alone reports, and calls `on_saved` with the step of every
    checkpoint that came to exist.
    """

    def __init__(
        self,
        where: Path | str,
        *,
        keep: int,
        report: Report,
        on_saved: Callable[[int], None] = lambda step: None,
    ):
        self._where, self._place = where, places.open_place(where)
        self._keep, self._report, self._on_saved = keep, report, on_saved
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._in_flight: concurrent.futures.Future | None = None
        self._is_failing = False
        parallel.on_first(self._place.prepare)
        # With the number of a save, this makes a name that no other program gives a save.
        self._started, self._num_saves = parallel.everyones(time.time_ns())[0], 0
        self._last_seen = list(self._place.finished())

    def save(self, step: int, state: Any, notes: dict[str, Any]) -> None:
        """Copies `state` to the host and has it written; trouble is reported, not raised.

        `notes` is JSON that comes back with the state. Waits for the save before this one.
        """
        self.wait()
        self._num_saves += 1
        save = f"{self._started}-{self._num_saves}"
        self._in_flight = self._thread.submit(self._write, step, save, shards.copy(state), notes)

    def wait(self) -> None:
        """Returns once no save is in flight on this process; on process 0, on any process."""
        if self._in_flight is not None:
            self._in_flight.result()
            self._in_flight = None

    def steps(self) -> list[int]:
        """The steps that are saved, oldest first; as last seen where the store does not answer."""
        with contextlib.suppress(UnreachableError):
            self._last_seen = list(self._place.finished())
        return self._last_seen

    def restore_latest(self, like: Any) -> Restored | None:
        """The newest checkpoint that verifies, laid out as `like`; None when none was ever made.

        One that does not verify on every process is set aside and reported. Raises
        NoUsableCheckpointError when that leaves none, MismatchError when the newest belongs to
        another model or optimizer, and UnreachableError.
        """
        self.wait()
        for step, name in reversed(parallel.everyones(list(self._place.finished().items()))[0]):
            found, error = ({}, {}), None
            try:
                found = self._read(step, name, like)
            except Exception as raised:  # damaged files fail in too many ways to list
                error = raised
            trouble = self._agree_on(error)
            if trouble is None:
                # Not above: a device that is short of memory says nothing about the files.
                return Restored(step, _place(found[0], like), found[1])
            if parallel.is_first():
                aside = self._place.set_aside(name)
                self._report(
                    "checkpoint_unusable",
                    f"checkpoint {step} cannot be used ({trouble}); it is now {aside}",
                )
        if parallel.everyones(self._place.has_unusable())[0]:
            raise NoUsableCheckpointError(
                f"no checkpoint in {self._where} can be used and those set aside there as "
                "unusable show that some were made; restore one from a backup, or delete the "
                "folder and train from the first step by --set=resume.restart=true"
            )
        return None

    def _agree_on(self, error: Exception | None) -> str | None:
        """What is wrong with the files on any process; raises what is wrong with anything else."""
        is_fatal = isinstance(error, (manifest.MismatchError, MemoryError, UnreachableError))
        told = parallel.everyones(error and [is_fatal, _shown(error)])
        if error is not None and is_fatal:
            raise error
        troubles = [(process, *one) for process, one in enumerate(told) if one]
        for process, is_fatal, line in troubles:
            if is_fatal:
                raise RuntimeError(f"process {process}: {line}")
        return troubles[0][-1] if troubles else None

    def _write(
        self, step: int, save: str, shares: dict[str, shards.Share], notes: dict[str, Any]
    ) -> None:
        mine, trouble = self._write_part(step, save, shares)
        # Not by a collective: those of this thread would mix with those of training.
        told = parallel.gather_on_first(f"save/{save}", trouble or _WRITTEN)
        if not parallel.is_first():
            return
        try:
            folder = self._place.begin(step, save)
            parts = [mine, *_others_parts(folder, told)]
            manifest.write(folder, step, shards.merge(parts), notes)
            self._place.finish(step, save)
        except Exception as error:  # a full disk alone has several types
            self._place.abandon(step, save)
            if not self._is_failing:
                self._report(
                    "save_failed",
                    f"checkpoint {step} could not be written ({_shown(error)}); training goes "
                    f"on, checkpoints {self.steps()} stay, and the next save is tried",
                )
            self._is_failing = True
            return
        self._on_saved(step)
        if self._is_failing:
            self._report("save_succeeded", f"checkpoint {step} was written; saving works again")
        self._is_failing = False
        with contextlib.suppress(UnreachableError):  # then after the next save
            finished = list(self._place.finished().items())
            for _, name in finished[: -self._keep]:
                self._place.remove(name)
            self._last_seen = [step for step, _ in finished[-self._keep :]]

    def _write_part(
        self, step: int, save: str, shares: dict[str, shards.Share]
    ) -> tuple[dict[str, shards.Entry], str]:
        """Writes this process's shards; returns their entries, and what went wrong, if anything."""
        try:
            folder = self._place.begin(step, save)
            mine = shards.write(folder.below("state"), shares)
            if not parallel.is_first():
                folder.write(_part(jax.process_index()), json.dumps(mine).encode())
        except Exception as error:  # a full disk alone has several types
            return {}, _shown(error)
        return mine, ""

    def _read(
        self, step: int, name: str, like: Any
    ) -> tuple[dict[str, shards.Regions], dict[str, Any]]:
        folder = self._place.content(name)
        content = manifest.read(folder, step, like)
        on_host = {
            path: shards.read(folder.below("state"), path, content["leaves"][path], x)
            for path, x in shards.paths(like).items()
        }
        return on_host, content["notes"]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.wait()
        self._thread.shutdown()


def _part(process: int) -> str:
    """Where a process tells process 0 what it wrote."""
    return f"part-{process}.json"


def _others_parts(folder: Objects, told: list[str]) -> list[dict[str, shards.Entry]]:
    """What the others wrote; raises OSError if `told` says that any process could not write."""
    for process, line in enumerate(told):
        if line != _WRITTEN:
            raise OSError(f"process {process}: {line}" if len(told) > 1 else line)
    names = [_part(process) for process in range(1, len(told))]
    parts = [json.loads(folder.read(name)) for name in names]
    for name in names:
        folder.delete(name)
    return parts


def _place(on_host: dict[str, shards.Regions], like: Any) -> Any:
    placed = [shards.place(on_host.pop(path), x) for path, x in shards.paths(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), placed)


def _shown(error: Exception) -> str:
    return first_line(error)[:200]
