"""The dtype of sums and of state: float32, or the parameters' dtype where that is wider.

Complex parameters have complex sums; their squares and norms are real.
"""

from typing import Any

import jax
import jax.numpy as jnp


def wide_dtype(x: jax.Array) -> jnp.dtype:
    """Return x's dtype if it holds all that float32 does, else the one that holds both."""
    return jnp.promote_types(x.dtype, jnp.float32)


def widen(x: Any) -> jax.Array:
    """Return x in its `wide_dtype`."""
    return x.astype(wide_dtype(x))


def widen_tree(tree: Any) -> Any:
    """Return a tree with every leaf in its `wide_dtype`."""
    return jax.tree.map(widen, tree)


def squared_size(x: jax.Array) -> jax.Array:
    """Return |x|^2 of each entry."""
    return jnp.square(jnp.abs(x)) if jnp.iscomplexobj(x) else jnp.square(x)
