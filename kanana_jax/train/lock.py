"""One process per run directory."""

import contextlib
import fcntl
import os
from pathlib import Path

from kanana_jax import config


@contextlib.contextmanager
def held(workdir: Path):
    """Holds `<workdir>/lock`; ConfigError when another process does.

    The kernel releases it when this process dies, however it dies.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise config.ConfigError(
                f"{workdir} is in use by process {file.read().strip() or 'unknown'}; wait for it, "
                "stop it, or choose another --workdir"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
