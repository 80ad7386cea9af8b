"""FLOPs of a step by arithmetic: a multiplication and an addition count as two.

model   6 (active parameters that multiply) tokens + attention, causal work counted as half
muon    per matrix M x N, M <= N, and step: 4 M^2 N + 2 M^3 (X X^T, its square, B X)
"""

import math
from typing import Any

import jax

from kanana_jax import config, model
from kanana_jax.train import optimizers, state


def of_model(exp: config.Experiment) -> float:
    """Forward and backward over one batch, without recomputation."""
    cfg, data = exp.model, exp.data
    _, active = model.num_params(cfg)
    looked_up = 0 if cfg.tie_embeddings else cfg.vocab_size * cfg.hidden_size
    per_position = cfg.num_layers * cfg.num_heads * (cfg.qk_head_dim + cfg.v_head_dim)
    tokens = data.batch_size * data.seq_len
    return 6 * (active - looked_up) * tokens + 6 * tokens * (data.seq_len / 2) * per_position


def of_muon(exp: config.Experiment) -> float:
    """Polar factors of every matrix, each computed once."""
    shapes = jax.tree.leaves(state.param_shapes(exp.model))
    return sum(
        of_stack(leaf.shape, spec, exp.optimizer.polar_steps)
        for leaf, spec in zip(shapes, muon_specs(exp), strict=True)
        if spec is not None
    )


def muon_specs(exp: config.Experiment) -> list[Any]:
    """The MatrixSpec of each parameter that Muon updates, None for the others, in tree order."""
    specs = jax.tree.leaves(optimizers.matrix_specs(exp), is_leaf=lambda x: x is None or _is(x))
    return [None] * len(specs) if exp.optimizer.name == "adamw" else specs


def of_stack(shape: tuple[int, ...], spec, steps: int) -> float:
    """Polar factors of a stack of matrices."""

    def size(axes):
        return math.prod(shape[axis] for axis in axes)

    short, long = sorted((size(spec.rows), size(spec.cols)))
    return size(spec.batch) * steps * (4 * short**2 * long + 2 * short**3)


def _is(node) -> bool:
    return hasattr(node, "rows")
