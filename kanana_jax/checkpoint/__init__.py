"""Saving and restoring training state."""

from kanana_jax.checkpoint.manager import Checkpoints

__all__ = ["Checkpoints"]
