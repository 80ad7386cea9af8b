"""Saving, verifying and restoring training state."""

from kanana_jax.checkpoint.manager import Checkpoints, NoUsableCheckpointError, Restored
from kanana_jax.checkpoint.manifest import MismatchError

__all__ = ["Checkpoints", "MismatchError", "NoUsableCheckpointError", "Restored"]
