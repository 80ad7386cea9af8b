"""Blocks of numbers as E4M3 with one float32 scale each (OFP8, arXiv:2209.05433).

    scale = the smallest power of two >= amax / 448        or amax / 448 itself
    value = x / scale, rounded to the nearest, to even between two; |value| <= 448

amax is the largest magnitude of the block's finite numbers. So no finite number is lost, and

    |x - scale value| <= max(2^-4 |x|, 2^-10 scale)        2^-10 scale < 2^-17.8 amax

(with float32 scales 2^-23 |x| more). Zeros stay zeros, and numbers below 2^-126 become zeros. NaN
and both infinities become NaN, which E4M3 has, so that a step that overflowed is seen. Numbers that
rounding takes above the largest float32, from 1.94 2^127 on, become infinite when they are read.

Letters: M rows, N columns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import selection
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
from pallas_kernels.quantize.gpu import dispatch as on_gpu
from pallas_kernels.selection import Implementation

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


class _Problem(NamedTuple):
    x: Any
    block: Block
    platform: str


class _Kernel(NamedTuple):
    quantize: Callable
    why_not: Callable[[_Problem], str | None]


# In order of preference. The GPU's kernels read a number once; XLA reads it again for its scale.
_KERNELS = {
    "mosaic_gpu": _Kernel(on_gpu.quantize, lambda problem: on_gpu.why_not(*problem)),
    "xla": _Kernel(xla.quantize, selection.always),
}


def quantize(
    x,
    block: Block = ROW_BLOCK,
    *,
    scale: Scale = "power_of_two",
    implementation: Implementation = "auto",
) -> Quantized:
    """Rounds x (..., M, N) to E4M3 in blocks (1, 128), (128, 1), (128, 128), or None: one block.

    The last blocks of a width that 128 does not divide are narrower. It has no derivative: the
    caller says what a gradient is. Raises ValueError on arrays that are not matrices of
    floating-point numbers, and on other blocks and scales; NotImplementedError where the named
    implementation, "mosaic_gpu" or "xla", cannot run. XLA alone splits its work over the devices of
    a mesh whose axes are not manual.
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
    problem = _Problem(x, block, jax.default_backend())
    name = selection.select(_KERNELS, problem, implementation)
    return _KERNELS[name].quantize(x, block, scale)


def dequantize(quantized: Quantized, dtype=jnp.bfloat16) -> jax.Array:
    """The numbers that `quantized` stands for, (..., M, N).

    Exact in bfloat16 and float32 where scales are powers of two; else rounded to dtype.
    """
    return xla.dequantize(quantized, dtype)


def transpose(quantized: Quantized) -> Quantized:
    """The transposed matrix (..., N, M) in blocks of the same shape, not made from wider numbers.

    Squares keep every bit. For rows (1, 128) each square takes its largest scale, and values shift.
    With powers of two this is exact, except for values that are then below E4M3's smallest number,
    2^-9, or have fewer than four digits left above it. Raises ValueError on columns, which are kept
    transposed already.
    """
    if quantized.block == COLUMN_BLOCK:
        raise ValueError("expected blocks (1, 128), (128, 128) or None, got (128, 1).")
    return xla.transpose(quantized)
