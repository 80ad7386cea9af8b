"""Scales and values of blocks in the registers of a Hopper kernel, as `quantize.xla` finds them.

Kernels cannot look at the bits of a float. A power of two is found by comparisons instead, one for
each bit of its exponent. Comparisons are exact.

Letters: M rows, N columns of a tile.
"""

import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.quantize import formats

_HALF = formats.LARGEST / 2
_FIRST = 2.0**11  # 2^128 times the smallest scale
_BITS = (64, 32, 16, 8, 4, 2, 1)


def magnitudes(x_MN):
    """Magnitudes that count for a scale, float32: 0 for numbers that are not finite.

    Numbers that are too small may keep theirs: where no other is larger, the scale is the
    smallest one anyway.
    """
    size_MN = jnp.abs(x_MN)
    return jnp.where(size_MN < jnp.inf, size_MN, 0.0)


def scales_of(amax, scale: formats.Scale):
    """The scales of blocks with these largest magnitudes, in the same shape."""
    if scale == "float32":
        return jnp.maximum(amax / formats.LARGEST, formats.SMALLEST_SCALE)
    found = jnp.where(amax > _HALF * _FIRST, _FIRST, formats.SMALLEST_SCALE)
    for bit in _BITS:
        larger = found * 2.0**bit
        found = jnp.where(amax > _HALF * larger, larger, found)
    return found


def values_of(x_MN, scales, scale: formats.Scale):
    """E4M3 values (M, N) of float32 numbers, given a scale, or one for each row (M,)."""
    if scale == "float32":
        scaled_MN = x_MN / _to_columns(scales, x_MN.shape)
        scaled_MN = jnp.minimum(jnp.maximum(scaled_MN, -formats.LARGEST), formats.LARGEST)
    else:
        scaled_MN = x_MN * _to_columns(1.0 / scales, x_MN.shape)
    size_MN = jnp.abs(x_MN)
    scaled_MN = jnp.where(size_MN >= formats.SMALLEST_NUMBER, scaled_MN, 0.0)
    return jnp.where(size_MN < jnp.inf, scaled_MN, jnp.nan).astype(formats.VALUES)


def read(ref):
    """A tile of shared memory as float32 registers, (M, N)."""
    return plgpu.layout_cast(ref[...], plgpu.Layout.WGMMA).astype(jnp.float32)


def store_rows(x_MN, values, scales, scale: formats.Scale) -> None:
    """Stores values (M, N) and scales (M,) of rows that are a block each."""
    found = scales_of(magnitudes(x_MN).max(axis=1), scale)
    values[...] = values_of(x_MN, found, scale)
    scales[...] = found


def _to_columns(factors, shape):
    return lax.broadcast_in_dim(factors, shape, tuple(range(factors.ndim)))
