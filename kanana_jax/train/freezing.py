"""Parts of a model that an optimizer leaves as they are.

Neither gradients nor weight decay nor QK-Clip move them. Their gradients are still computed, and
the optimizer's state still has room for them, so that another stage may train them.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax


def part_of(path: Any) -> str:
    """The part, as optimizer.frozen names it, to which the leaf at `path` belongs."""
    if path[0].key not in ("vision", "audio"):
        return "decoder"
    return "projector" if path[1].key in ("projector", "abstractor") else "encoder"


def keep(frozen: Collection[str]) -> optax.GradientTransformation:
    """Takes the updates of these parts away; belongs behind all else that makes updates."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        def kept(path: Any, x: jax.Array) -> jax.Array:
            return jnp.zeros_like(x) if part_of(path) in frozen else x

        return jax.tree_util.tree_map_with_path(kept, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
