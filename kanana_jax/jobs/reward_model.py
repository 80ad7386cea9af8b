"""A reward model next to the model that is trained: loaded once, never trained, never saved."""

import dataclasses
from pathlib import Path
from typing import Any

from kanana_jax import config
from kanana_jax.jobs import initial
from kanana_jax.jobs.likelihood import Score
from kanana_jax.train import step_functions
from kanana_jax.weights import native


def load(folder: Path, built: Any) -> Score:
    """A function that gives the scalar of every position of a batch.

    CheckpointError where the folder holds no model, ConfigError where the model has no scalar head.
    """
    shape = native.read_description(folder).cfg
    if not shape.scalar_head:
        raise config.ConfigError(
            f"judge.reward_model: expected a model with a scalar head, got {folder}; train one "
            "with kanana_jax.jobs.reward"
        )
    steps = step_functions.build(dataclasses.replace(built.steps.cfg, model=shape), built.mesh)
    weights = initial.restore(str(folder), steps.like_whole)
    return lambda batch: steps.scalars(weights, batch)
