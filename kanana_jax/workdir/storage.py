"""A disk or object store that takes no data when it must: at a run's start and at its end.

In between training goes on without it; see checkpoint.Checkpoints and report.metrics.MetricsWriter.
"""

import contextlib
import errno
from collections.abc import Iterable
from pathlib import Path

from kanana_jax import checkpoint
from kanana_jax.config import paths
from kanana_jax.errors import UserError

_REFUSALS = {*paths.DISK_ERRORS, errno.EACCES, errno.EPERM}


class StorageError(UserError, RuntimeError):
    """What a run must leave behind could not be written; running it again finishes it."""

    exit_code = 4


@contextlib.contextmanager
def needed(workdir: Path):
    """Inside, a refusal to write ends as a StorageError, which says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise StorageError(
            f"{error.filename or workdir} cannot be written ({error.strerror}); free space or make "
            "it writable, and run the same command again: it goes on from the last checkpoint"
        ) from error
    except checkpoint.UnreachableError as error:
        raise StorageError(
            f"{error}; make it reachable, and run the same command again: it goes on from the last "
            "checkpoint"
        ) from error


def expect_workdir(workdir: Path) -> Path:
    """The path of the folder; raises ConfigError unless it can be written to."""
    with needed(workdir):
        folder = paths.workdir(workdir)
        paths.expect_folder(folder, "--workdir")
    return folder


def expect_folders(places: Iterable[tuple[str, str]]) -> None:
    """Raises ConfigError unless all places, pairs of a setting and its value, can be written to."""
    for name, place in dict.fromkeys(places):
        if place and not paths.is_remote(place):
            with needed(Path(place)):
                paths.expect_folder(Path(place), name)


def expect_last_checkpoint(directory: Path, saved: list[int], last_step: int) -> None:
    """Raises StorageError when the step that a run ends with is not among those saved."""
    if last_step not in saved:
        raise StorageError(
            f"the last checkpoint of {directory}, of step {last_step}, could not be written; free "
            "space and run the same command again: it goes on from "
            + (f"step {saved[-1]}" if saved else "the start")
        )
