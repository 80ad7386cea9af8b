"""Blocks of numbers as E4M3 with one float32 scale each (OFP8, arXiv:2209.05433).

    scale = the smallest power of two >= amax / 448        or amax / 448 itself
    value = x / scale, rounded to the nearest, to even between two; |value| <= 448

amax is the largest size of the block's finite numbers. So no finite number is lost, and

    |x - scale value| <= max(2^-4 |x|, 2^-10 scale)        2^-10 scale < 2^-17.8 amax

(with float32 scales 2^-23 |x| more). Zeros stay zeros, as do numbers below 2^-126; NaN and both
infinities become NaN, which E4M3 has, so that a step that overflowed is seen. What would be above
the largest float32 after rounding, from 1.94 2^127 on, becomes infinite when it is read.

Letters: M rows, N columns.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.quantize import xla
from pallas_kernels.quantize.formats import (
    COLUMN_BLOCK,
    RECIPES,
    ROW_BLOCK,
    SQUARE_BLOCK,
    Block,
    Precision,
    Quantized,
    Recipe,
    Scale,
    recipe,
)

__all__ = [
    "COLUMN_BLOCK",
    "RECIPES",
    "ROW_BLOCK",
    "SQUARE_BLOCK",
    "Block",
    "Precision",
    "Quantized",
    "Recipe",
    "Scale",
    "dequantize",
    "quantize",
    "recipe",
    "transpose",
]
_BLOCKS = (ROW_BLOCK, COLUMN_BLOCK, SQUARE_BLOCK, None)
_SCALES = ("power_of_two", "float32")


def quantize(x, block: Block = ROW_BLOCK, *, scale: Scale = "power_of_two") -> Quantized:
    """Rounds x (..., M, N) to E4M3 in blocks (1, 128), (128, 1), (128, 128), or None: one block.

    The last blocks of a width that 128 does not divide are narrower. It has no derivative: what
    uses it says what a gradient is. Raises ValueError on arrays that are no matrices of
    floating-point numbers, and on other blocks and scales.
    """
    x = jnp.asarray(x)
    if x.ndim < 2 or 0 in x.shape or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            "expected floating-point numbers (..., M, N) and no dimension of size 0, got "
            f"{x.dtype} with shape {x.shape}."
        )
    if block not in _BLOCKS or scale not in _SCALES:
        raise ValueError(
            f"block must be one of {_BLOCKS} and scale one of {_SCALES}; got {block}, {scale!r}."
        )
    return xla.quantize(x, block, scale)


def dequantize(quantized: Quantized, dtype=jnp.bfloat16) -> jax.Array:
    """The numbers that `quantized` stands for, (..., M, N).

    Exact in bfloat16 and float32 where scales are powers of two; else rounded to dtype.
    """
    return xla.dequantize(quantized, dtype)


def transpose(quantized: Quantized) -> Quantized:
    """The transposed matrix (..., N, M) in blocks of the same shape, not made from wider numbers.

    Squares keep every bit. Of rows (1, 128) each square takes its largest scale, and values shift:
    exact for powers of two, but for what is then below E4M3's smallest number, 2^-9, or has fewer
    than four digits left above it. Raises ValueError on columns, which are kept transposed already.
    """
    if quantized.block == COLUMN_BLOCK:
        raise ValueError("expected blocks (1, 128), (128, 128) or None, got (128, 1).")
    return xla.transpose(quantized)
