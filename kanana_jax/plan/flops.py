"""FLOPs of a step by arithmetic: a multiplication and an addition count as two.

model   6 (active parameters that multiply) tokens + attention, causal work counted as half
muon    per matrix M x N, M <= N, and step: 4 M^2 N + 2 M^3 (X X^T, its square, B X)
"""

import dataclasses
import math
from typing import Any

import jax

from kanana_jax import config, model
from kanana_jax.train import optimizers, state
from kanana_jax.train.step_config import StepConfig


def of_model(shape: config.ModelConfig, batch_size: int, seq_len: int) -> float:
    """Forward and backward of the decoder over one batch, without recomputation.

    Encoders of images and sounds are left out: their work depends on what a batch holds.
    """
    _, active = model.num_params(dataclasses.replace(shape, vision=None, audio=None))
    looked_up = 0 if shape.tie_embeddings else shape.vocab_size * shape.hidden_size
    per_position = shape.num_layers * shape.num_heads * (shape.qk_head_dim + shape.v_head_dim)
    tokens = batch_size * seq_len
    return 6 * (active - looked_up) * tokens + 6 * tokens * (seq_len / 2) * per_position


def of_polar(cfg: StepConfig) -> float:
    """Polar factors of every matrix, each computed once."""
    shapes = jax.tree.leaves(state.weight_shapes(cfg.model).params)
    return sum(
        of_stack(leaf.shape, spec, cfg.optimizer.polar_steps)
        for leaf, spec in zip(shapes, polar_specs(cfg), strict=True)
        if spec is not None
    )


def polar_specs(cfg: StepConfig) -> list[Any]:
    """The MatrixSpec of each parameter whose update is a polar factor, None for the others."""
    specs = optimizers.polar_specs(cfg.optimizer, cfg.model)
    return jax.tree.leaves(specs, is_leaf=optimizers.is_spec)


def of_stack(shape: tuple[int, ...], spec, steps: int) -> float:
    """Polar factors of a stack of matrices."""

    def size(axes):
        return math.prod(shape[axis] for axis in axes)

    short, long = sorted((size(spec.rows), size(spec.cols)))
    return size(spec.batch) * steps * (4 * short**2 * long + 2 * short**3)
