"""The folders in which jobs run: locks, provenance, events, signals, storage, records, results."""

from kanana_jax.workdir.folder import Workdir, opened
from kanana_jax.workdir.recorder import Work
from kanana_jax.workdir.run_record import Run
from kanana_jax.workdir.signals import Stopped, StopRequest
from kanana_jax.workdir.storage import StorageError

__all__ = [
    "Run",
    "StopRequest",
    "Stopped",
    "StorageError",
    "Work",
    "Workdir",
    "opened",
]
