"""Quantisation in XLA: largest magnitudes and powers of two are found on the bits of float32.

Without the sign, bits are ordered as the magnitudes are, and integers have no NaN that a maximum
could lose.

Letters: M rows, N columns, m and n rows and columns of a block, I and J blocks.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.quantize import formats

_SIGN, _INFINITY, _MANTISSA = 0x7FFFFFFF, 0x7F800000, 0x007FFFFF
# 448 is 1.75 2^8: for amax = a 2^k the power of two is 2^(k - 8) if a <= 1.75, else the next.
_LARGEST_MANTISSA, _LARGEST_EXPONENT, _EXPONENT_AT = 0x00600000, 8, 23


def quantize(x: jax.Array, block: formats.Block, scale: formats.Scale) -> formats.Quantized:
    """E4M3 values of x (..., M, N) and the scales of its blocks; arguments are already checked."""
    x = x.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(x, jnp.int32) & _SIGN
    is_finite = bits < _INFINITY
    # Denormals do not count: some compilers take them for zeros.
    is_number = is_finite & (bits > _MANTISSA)
    scales = _scales(_largest(jnp.where(is_number, bits, 0), block), scale)
    each = _spread(scales, x.shape, block)
    scaled = x * (1 / each) if scale == "power_of_two" else x / each
    scaled = jnp.where(is_number, scaled, 0.0)
    scaled = jnp.clip(scaled, -formats.LARGEST, formats.LARGEST)
    values = jnp.where(is_finite, scaled, jnp.nan).astype(formats.VALUES)
    # Else a compiler that may keep more digits than it is asked for would drop the rounding.
    values, scales = jax.lax.optimization_barrier((values, scales))
    return formats.Quantized(values, scales, block)


def dequantize(quantized: formats.Quantized, dtype) -> jax.Array:
    values = quantized.values
    each = _spread(quantized.scales, values.shape, quantized.block)
    return (values.astype(jnp.float32) * each).astype(dtype)


def transpose(quantized: formats.Quantized) -> formats.Quantized:
    """See `pallas_kernels.quantize.transpose`; arguments are already checked."""
    values, scales = (jnp.swapaxes(x, -2, -1) for x in (quantized.values, quantized.scales))
    block = quantized.block
    if block is None or block == block[::-1]:
        return formats.Quantized(values, scales, block)
    # A block of the result spans rows of several scales, and takes the largest of them.
    num_cols, num_rows = values.shape[-2:]
    padded = _pad(scales, (1, block[1]))
    largest = padded.reshape(*scales.shape[:-1], -1, block[1]).max(axis=-1)
    coarse = jnp.repeat(largest, block[1], axis=-1)[..., :num_rows]
    shift = jnp.repeat(scales / coarse, block[1], axis=-2)[..., :num_cols, :]
    values = (values.astype(jnp.float32) * shift).astype(formats.VALUES)
    values = jax.lax.optimization_barrier(values)
    scales = jnp.repeat(largest, block[1], axis=-2)[..., :num_cols, :]
    return formats.Quantized(values, scales, block)


def _largest(bits, block):
    if block is None:
        return bits.max(keepdims=True)
    padded = _pad(bits, block)
    *lead, num_rows, num_cols = padded.shape
    cut = padded.reshape(*lead, num_rows // block[0], block[0], num_cols // block[1], block[1])
    return cut.max(axis=(-3, -1))


def _pad(x, block):
    missing = [-size % side for size, side in zip(x.shape[-2:], block, strict=True)]
    if not any(missing):
        return x
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, size) for size in missing])


def _scales(amax_bits, scale):
    smallest = jnp.float32(formats.SMALLEST_SCALE)
    if scale == "float32":
        amax = jax.lax.bitcast_convert_type(amax_bits, jnp.float32)
        return jnp.maximum(amax / formats.LARGEST, smallest)
    exponent = (amax_bits >> _EXPONENT_AT) - _LARGEST_EXPONENT
    exponent += ((amax_bits & _MANTISSA) > _LARGEST_MANTISSA).astype(jnp.int32)
    smallest_bits = jax.lax.bitcast_convert_type(smallest, jnp.int32)
    exponent = jnp.maximum(exponent, smallest_bits >> _EXPONENT_AT)
    return jax.lax.bitcast_convert_type(exponent << _EXPONENT_AT, jnp.float32)


def _spread(scales, shape, block):
    """The scale of each number, in a shape that broadcasts to `shape`."""
    if block is None:
        return scales
    for axis, side in zip((-2, -1), block, strict=True):
        if side > 1:
            scales = jnp.repeat(scales, side, axis=axis)
            scales = jax.lax.slice_in_dim(scales, 0, shape[axis], axis=axis % len(shape))
    return scales
