"""Learning rates of single leaves, as multiples of the shared one.

A rule for other widths gives each class of weights a factor. It multiplies their finished update,
decay included, so a leaf's rate is `lr` times its factor.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kanana_jax.optim import matrices, trees
from kanana_jax.optim.specs import MatrixSpec


@dataclass(frozen=True)
class RateFactors:
    """Factors of one leaf: one for all of it, or with `spec` one for each part of its matrices."""

    parts: tuple[float, ...]
    spec: MatrixSpec | None = None

    def __post_init__(self):
        num_parts = max(1, len(self.spec.split_sizes)) if self.spec else 1
        if len(self.parts) != num_parts or not all(0 < x < math.inf for x in self.parts):
            raise ValueError(
                f"rate factors must be {num_parts} positive numbers, one for each part of "
                f"{self.spec}; got {self.parts}."
            )


def scale_by_factors(factors: Any) -> optax.GradientTransformation:
    """Multiply each leaf by its `RateFactors`; `factors` is a tree of them like the parameters."""

    def update_fn(updates, state, params=None):
        del params
        leaves, each, _, rebuild = trees.describe(updates, factors, "rate factors")
        return rebuild([_scaled(x, f) for x, f in zip(leaves, each, strict=True)]), state

    return optax.GradientTransformation(optax.init_empty_state, update_fn)


def _scaled(leaf: jax.Array, factors: RateFactors) -> jax.Array:
    if len(set(factors.parts)) == 1 or factors.spec is None:
        return leaf * jnp.asarray(factors.parts[0], leaf.dtype)
    stacks = matrices.split_matrices(leaf, factors.spec)
    pairs = zip(stacks, factors.parts, strict=True)
    scaled = tuple(x * jnp.asarray(f, x.dtype) for x, f in pairs)
    return matrices.merge_matrices(scaled, factors.spec, leaf.shape)
