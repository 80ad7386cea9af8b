"""The dtype of sums (float32, or float64 for float64 arrays), and kernels where JAX has 64 bits."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def wide(dtype) -> jnp.dtype:
    """Returns the dtype in which numbers of `dtype` are added up."""
    return jnp.promote_types(dtype, jnp.float32)


def in_32_bits(kernel: Callable) -> Callable:
    """Traces a function as if without JAX_ENABLE_X64: kernels do not take its int64 indices."""

    @functools.wraps(kernel)
    def call(*args, **kwargs):
        with jax.enable_x64(False):
            return kernel(*args, **kwargs)

    return call
