"""What a quantised array is: E4M3 values and the float32 scale of each block.

    x ~ values * scale of their block        E4M3: 3 bits of mantissa, at most 448, at least 2^-9

A power of two times an E4M3 value is exact in bfloat16, so that products of dequantised arrays are
those that FP8 units form.

Letters: M rows, N columns, m and n rows and columns of a block.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

VALUES = jnp.float8_e4m3fn
LARGEST = 448.0
# The smallest scale: its product with the smallest value is float32's smallest normal number.
# Compilers count smaller numbers as zeros or not, as they like; here they are zeros.
SMALLEST_SCALE = 2.0**-117
SMALLEST_NUMBER = 2.0**-126

type Scale = Literal["power_of_two", "float32"]
type Block = tuple[int, int] | None  # None: the whole array is one block

SIDE = 128
ROW_BLOCK = (1, SIDE)  # activations and gradients, along what a product contracts
COLUMN_BLOCK = (SIDE, 1)
SQUARE_BLOCK = (SIDE, SIDE)  # weights: both orientations have the same values and scales


@partial(jax.tree_util.register_dataclass, data_fields=["values", "scales"], meta_fields=["block"])
@dataclass(frozen=True)
class Quantized:
    """values (..., M, N) in E4M3, scales (..., ceil(M / m), ceil(N / n)) in float32.

    With block None, scales hold one number and have the rank of values.
    """

    values: jax.Array
    scales: jax.Array
    block: Block

    def take_rows(self, index: jax.Array, take: Callable = operator.getitem) -> "Quantized":
        """The rows that `index` names, of a matrix whose blocks lie within rows.

        take(values, index) moves the values; scales are few.
        """
        values = take(self.values, index)
        if self.block is None:
            return Quantized(values, self.scales, None)
        assert self.block[0] == 1
        return Quantized(values, self.scales[index], self.block)


class Recipe(NamedTuple):
    """How a layer is computed: which products are in FP8, and in which blocks.

    Where has_products is false, rows of experts are only kept as FP8 between the passes.
    """

    has_products: bool
    has_dense_products: bool = False
    rows: Block = ROW_BLOCK
    weights: Block = SQUARE_BLOCK
    scale: Scale = "power_of_two"


# "full": nothing is quantised. "fp8_store" is what Kimi K2 does (arXiv:2507.20534), "fp8" the
# recipe of DeepSeek-V3 (arXiv:2412.19437, sec. 3.3) with powers of two. "fp8_experts" is the part
# of "fp8" that is faster than bfloat16 on Hopper; the last two are "fp8" with free scales, and with
# one scale for a whole array.
RECIPES: dict[str, Recipe | None] = {
    "full": None,
    "fp8_store": Recipe(has_products=False),
    "fp8": Recipe(has_products=True, has_dense_products=True),
    "fp8_experts": Recipe(has_products=True),
    "fp8_float32_scales": Recipe(has_products=True, has_dense_products=True, scale="float32"),
    "fp8_per_tensor": Recipe(has_products=True, has_dense_products=True, rows=None, weights=None),
}
type Precision = Literal[
    "full", "fp8_store", "fp8", "fp8_experts", "fp8_float32_scales", "fp8_per_tensor"
]


def recipe(precision: Precision) -> Recipe | None:
    """The recipe of a precision; raises ValueError if there is no such precision."""
    if precision not in RECIPES:
        raise ValueError(f"precision must be one of {', '.join(RECIPES)}; got {precision!r}.")
    return RECIPES[precision]
