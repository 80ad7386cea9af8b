"""Which quantisations the Hopper kernels do, and in what shapes they see them.

Letters: M rows, N columns.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels import hopper
from pallas_kernels.quantize import formats
from pallas_kernels.quantize.gpu import kernel

_DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)


def quantize(x, block: formats.Block, scale: formats.Scale, *, interpret: bool = False):
    """E4M3 values of x (..., M, N) and scales; `why_not` has found no reason."""
    *lead, num_cols = x.shape
    x_MN = x.reshape(-1, num_cols)
    num_rows = x_MN.shape[0]
    if block == formats.SQUARE_BLOCK:
        run = functools.partial(kernel.squares, scale=scale, interpret=interpret)
        values, scales = hopper.call(run, x_MN)
        scales = scales[..., 0].reshape(*lead[:-1], -1, scales.shape[1])
    else:
        x_MN = hopper.pad_rows(x_MN, kernel.ROWS)
        run = functools.partial(kernel.rows, scale=scale, interpret=interpret)
        values, scales_IM = hopper.call(run, x_MN)
        values, scales = values[:num_rows], scales_IM.T[:num_rows].reshape(*lead, -1)
    return formats.Quantized(values.reshape(x.shape), scales, block)


def why_not(x: jax.Array | jax.ShapeDtypeStruct, block: formats.Block, platform: str) -> str | None:
    """The reason why the kernels cannot quantise an array, or None."""
    if elsewhere := hopper.why_not(platform):
        return elsewhere
    if block not in (formats.ROW_BLOCK, formats.SQUARE_BLOCK):
        return f"it needs rows or squares of {formats.SIDE}, got {block}"
    if x.dtype not in _DTYPES:
        return f"it needs numbers of 16 or 32 bits, got {x.dtype}"
    sides = x.shape[-2:] if block == formats.SQUARE_BLOCK else x.shape[-1:]
    if any(side % formats.SIDE for side in sides):
        return f"it needs multiples of {formats.SIDE}, got {x.shape}"
    return None
