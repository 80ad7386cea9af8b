"""One program per run directory; all its processes see the same directory."""

import contextlib
import fcntl
import os
import time
import uuid
from pathlib import Path
from typing import TextIO

from kanana_jax import config, parallel

_NETWORK_DELAY_S = 30.0  # until a network file system shows what another host wrote


@contextlib.contextmanager
def held(workdir: Path):
    """Process 0 holds `<workdir>/lock`; raises ConfigError when another program does.

    The kernel releases the lock when that process dies, however it dies. Also raises ConfigError
    when one of several processes sees another folder of the same name in place of this one.
    """
    with contextlib.ExitStack() as stack:
        name = parallel.on_first(lambda: stack.enter_context(_locked(workdir)))
        name = parallel.everyones(name)[0]
        parallel.together(lambda: _expect_shared(workdir, name))
        yield


def check(workdir: Path) -> None:
    """Raises ConfigError when another program holds the lock now. Writes nothing."""
    path = workdir / "lock"
    if path.exists():
        with path.open() as file:
            _acquire(file, workdir, fcntl.LOCK_SH)  # all processes of a program may ask at once


def _acquire(file: TextIO, workdir: Path, kind: int) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().partition(" ")[0] or "unknown"
        raise config.ConfigError(
            f"{workdir} is in use by process {holder}; wait for it, stop it, or choose another "
            "--workdir"
        ) from None


@contextlib.contextmanager
def _locked(workdir: Path):
    """Yields what the lock file then says: this process and a name that no other has."""
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / "lock").open("a+") as file:
        _acquire(file, workdir, fcntl.LOCK_EX)
        name = f"{os.getpid()} {uuid.uuid4()}"
        file.truncate(0)
        file.write(name)
        file.flush()
        os.fsync(file.fileno())
        yield name


def _expect_shared(workdir: Path, name: str) -> None:
    path, until = workdir / "lock", time.monotonic() + _NETWORK_DELAY_S
    while not (path.exists() and path.read_text() == name):
        if time.monotonic() > until:
            raise config.ConfigError(
                f"{workdir} must be one folder for all processes, but here it is not the one that "
                "process 0 writes to; give a --workdir on a file system that all hosts mount"
            )
        time.sleep(0.2)
