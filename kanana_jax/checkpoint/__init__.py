"""Saving, verifying and restoring the state of training, in folders and object stores."""

from kanana_jax.checkpoint.errors import CheckpointError
from kanana_jax.checkpoint.manager import Checkpoints, NoUsableCheckpointError, Restored
from kanana_jax.checkpoint.manifest import MismatchError
from kanana_jax.checkpoint.objects import UnreachableError
from kanana_jax.checkpoint.places import newest_step, place_of, shared_place

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "MismatchError",
    "NoUsableCheckpointError",
    "Restored",
    "UnreachableError",
    "newest_step",
    "place_of",
    "shared_place",
]
