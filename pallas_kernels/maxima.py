"""Maxima that keep NaN, as numpy's do. Those of kernels and of XLA on CPUs lose it."""

import jax
import jax.numpy as jnp


def keep_nan(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Returns the maximum over `axis`: NaN where x has one, -inf where x is empty."""
    axes = tuple(one % x.ndim for one in ((axis,) if isinstance(axis, int) else axis))
    return joined(split(x).max(axes, initial=-jnp.inf))


def split(x: jax.Array) -> jax.Array:
    """Returns x and whether it is NaN along a new last axis: one maximum serves for both."""
    is_nan = jnp.isnan(x)
    return jnp.stack([jnp.where(is_nan, -jnp.inf, x), is_nan.astype(x.dtype)], axis=-1)


def joined(largest: jax.Array) -> jax.Array:
    """Returns the maximum of x, given the maximum of `split(x)`."""
    return jnp.where(largest[..., 1] > 0, jnp.nan, largest[..., 0])


def of_rows(largest: jax.Array, lse_rows: jax.Array) -> jax.Array:
    """Returns maxima of scores, NaN where any row's log-sum-exp, over the last axis, shows a NaN.

    A sum keeps the NaN that a maximum loses; for a row with a score of +inf it is NaN as well.
    """
    is_nan = jnp.isnan(lse_rows).any(axis=-1) & (largest < jnp.inf)
    return jnp.where(is_nan, jnp.nan, largest)
