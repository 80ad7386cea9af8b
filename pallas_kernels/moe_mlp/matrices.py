"""The experts' matrices as FP8: made where they are used, or once for many uses of a step.

    up    (E, 2F, D)    h = x up^T        dx = dh up
    down  (E, F, D)     y = a down        a' = dy down^T

FP8 units read along the contracted width alone. So a kernel needs each matrix transposed too; the
transpose is made only where a kernel will run. Squares have the same scales and values both ways.

Letters: E experts, F expert width, D hidden width.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from pallas_kernels.grouped_matmul.quantized import (
    grouped_matmul_quantized,
    reads_transposed,
)
from pallas_kernels.quantize import SQUARE_BLOCK, Precision, Quantized, Recipe, quantize, transpose
from pallas_kernels.quantize import recipe as find_recipe
from pallas_kernels.selection import Implementation


class Matrix(NamedTuple):
    """Matrices (..., N, K), and the same as (..., K, N) or None."""

    plain: Quantized
    transposed: Quantized | None = None


class Matrices(NamedTuple):
    """Both matrices of each expert."""

    up: Matrix
    down: Matrix


def has_matrices(precision: Precision) -> bool:
    """Whether products read squares of FP8, which lie within a matrix."""
    recipe = find_recipe(precision)
    return recipe is not None and recipe.has_products and recipe.weights == SQUARE_BLOCK


def quantize_experts(
    w_gate_up_E2FD,
    w_down_EFD,
    dtype,
    *,
    precision: Precision = "fp8",
    implementation: Implementation = "auto",
) -> Matrices | None:
    """Quantises the matrices as `moe_mlp` does for products of `dtype`, once for many calls.

    Results are the same bit for bit. Returns None where `has_matrices` is false.
    """
    recipe = find_recipe(precision)
    if recipe is None or not has_matrices(precision):
        return None
    made = of_weights(recipe, implementation, dtype, w_gate_up_E2FD, w_down_EFD)

    def with_transposed(matrix: Matrix) -> Matrix:
        is_read = reads_transposed(matrix.plain, dtype, implementation)
        return Matrix(matrix.plain, transpose(matrix.plain) if is_read else None)

    return Matrices(*map(with_transposed, made))


def of_weights(recipe: Recipe, implementation, dtype, w_gate_up_E2FD, w_down_EFD) -> Matrices:
    """Each matrix as it is stored."""
    merged_E2FD = w_gate_up_E2FD.reshape(w_down_EFD.shape[0], -1, w_down_EFD.shape[2])
    to_squares = quantizer(recipe.weights, recipe, implementation)
    matrices = merged_E2FD, w_down_EFD
    return Matrices(*(Matrix(to_squares(jnp.asarray(w, dtype))) for w in matrices))


def quantizer(block, recipe: Recipe, implementation):
    """Kernels that quantise belong to those that multiply; they have no other implementation."""
    name = "auto" if implementation in ("auto", "mosaic_gpu") else "xla"
    return partial(quantize, block=block, scale=recipe.scale, implementation=name)


def multiply(rows: Quantized, matrix: Matrix, *, transpose_rhs: bool = False, **options):
    """`grouped_matmul_quantized` with the orientation that is there."""
    if matrix.transposed is not None and not transpose_rhs:
        return grouped_matmul_quantized(rows, matrix.transposed, transpose_rhs=True, **options)
    return grouped_matmul_quantized(rows, matrix.plain, transpose_rhs=transpose_rhs, **options)
