"""One run of curation at a time in a folder, and none while processes of a killed run write."""

import contextlib
import fcntl
import multiprocessing
import os
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from kanana_jax.config import ConfigError

_WAIT_S = 10.0  # for processes of a killed run to end


@contextlib.contextmanager
def held(out: pathlib.Path) -> Iterator[None]:
    """Inside, the folder belongs to this run. ConfigError where another run has it."""
    with _opened(out / ".lock") as run, _opened(out / ".workers") as workers:
        if not _taken(run, fcntl.LOCK_EX, 0.0) or not _taken(workers, fcntl.LOCK_EX, _WAIT_S):
            raise ConfigError(
                f"--to={out} is in use by another run; wait for its end, or name another folder"
            )
        fcntl.flock(workers, fcntl.LOCK_UN)
        yield


def join(out: pathlib.Path) -> None:
    """For a worker process: it shares the folder until it ends, and it ends with its parent."""
    # Never closed: the process's end does that.
    file = os.open(out / ".workers", os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_SH)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    # A worker waits for work on a pipe that it holds open itself, so it would wait for ever.
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        yield file
    finally:
        os.close(file)


def _taken(file: int, kind: int, wait_s: float) -> bool:
    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.1)
