"""Saving and restoring: training state, models to start from, Hugging Face directories."""

from kanana_jax.checkpoint.errors import CheckpointError
from kanana_jax.checkpoint.manager import Checkpoints

__all__ = ["CheckpointError", "Checkpoints"]
