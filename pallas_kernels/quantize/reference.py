"""Quantisation as it is defined: by real arithmetic, one block after the other.

    scale = max(amax, 448 smallest) / 448        or the smallest power of two that is no smaller
    value = x / scale, to the nearest of E4M3's numbers, to even between two

amax is over the finite numbers of a block.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.quantize import formats

_MIN_EXPONENT, _MANTISSA_BITS = -6, 3


def quantize(x: jax.Array, block: formats.Block, scale: formats.Scale) -> formats.Quantized:
    """Quantises concrete arrays with numpy in float64."""
    wide = np.asarray(x.astype(jnp.float32), np.float64)
    wide = np.where(np.abs(wide) < formats.SMALLEST_NUMBER, 0.0, wide)
    rows, columns = block or wide.shape[-2:]
    lead = wide.shape[:-2]
    grid = -(-wide.shape[-2] // rows), -(-wide.shape[-1] // columns)
    if block is None:
        lead, grid, flat = (1,) * len(lead), (1, 1), wide.reshape(1, 1, -1)
        values, scales = _block(flat, scale)
        values, scales = values.reshape(wide.shape), scales.reshape(*lead, *grid)
    else:
        values, scales = np.zeros_like(wide), np.zeros((*lead, *grid))
        for i, j in np.ndindex(*grid):
            at = ..., slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns)
            values[at], scales[..., i, j] = _block(wide[at], scale)
    values = jnp.asarray(values, jnp.float32).astype(formats.VALUES)
    return formats.Quantized(values, jnp.asarray(scales, jnp.float32), block)


def _block(x, scale):
    is_finite = np.isfinite(x)
    amax = np.where(is_finite, np.abs(x), 0.0).max(axis=(-2, -1))
    amax = np.maximum(amax, formats.LARGEST * formats.SMALLEST_SCALE)
    scale_ = amax / formats.LARGEST
    if scale == "power_of_two":
        scale_ = 2.0 ** np.ceil(np.log2(scale_))
    else:
        scale_ = np.float64(np.float32(scale_))
    scaled = np.where(is_finite, x, 0.0) / np.expand_dims(scale_, (-2, -1))
    _, exponent = np.frexp(scaled)
    step = 2.0 ** (np.maximum(exponent - 1, _MIN_EXPONENT) - _MANTISSA_BITS)
    rounded = np.clip(np.round(scaled / step) * step, -formats.LARGEST, formats.LARGEST)
    return np.where(is_finite, rounded, np.nan), scale_
