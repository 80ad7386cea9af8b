"""Maxima that keep NaN, as numpy's do. Those of kernels and of XLA on CPUs lose it."""

import jax
import jax.numpy as jnp


def keep_nan(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Returns the maximum over `axis`: NaN where x has one, -inf where x is empty."""
    return jnp.where(jnp.isnan(x).any(axis), jnp.nan, x.max(axis, initial=-jnp.inf))


def of_rows(largest: jax.Array, lse_rows: jax.Array) -> jax.Array:
    """Returns maxima of scores, NaN where a row's log-sum-exp, over the last axis, tells of NaN.

    A sum keeps what a maximum loses; of a row with a score of +inf it is NaN as well.
    """
    is_nan = jnp.isnan(lse_rows).any(axis=-1) & (largest < jnp.inf)
    return jnp.where(is_nan, jnp.nan, largest)
