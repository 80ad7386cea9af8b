"""Training: `run(experiment, workdir)` does everything from the corpus to the report."""

from kanana_jax.checkpoint import CheckpointError, MismatchError, NoUsableCheckpointError
from kanana_jax.data import DataError
from kanana_jax.parallel import is_joined, join
from kanana_jax.train.compare import run
from kanana_jax.workdir.signals import Stopped
from kanana_jax.workdir.storage import StorageError

__all__ = [
    "CheckpointError",
    "DataError",
    "MismatchError",
    "NoUsableCheckpointError",
    "Stopped",
    "StorageError",
    "is_joined",
    "join",
    "run",
]
