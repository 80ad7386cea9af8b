"""Grouped products of FP8 blocks: `quantize.Quantized` rows and matrices, sums in float32.

    out[m] = lhs[m] @ rhs[g(m)]

It has no derivative: a layer says which of its gradients are products of FP8.

Letters: M rows, G groups, K contracted width, N output width.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.quantize import Quantized, dequantize
from pallas_kernels.selection import Implementation


def grouped_matmul_quantized(
    lhs: Quantized,
    rhs: Quantized,
    group_sizes,
    *,
    transpose_rhs: bool = False,
    preferred_element_type=jnp.bfloat16,
    implementation: Implementation = "auto",
) -> jax.Array:
    """Multiplies each row of lhs (M, K) by its group's matrix in rhs (G, K, N), to (M, N).

    With transpose_rhs, rhs is (G, N, K). Both are read back in preferred_element_type, exactly
    where their scales are powers of two and that is bfloat16 or float32, and multiplied as
    `grouped_matmul` does, whose implementations and errors these are.
    """
    lhs_MK, rhs_G = (dequantize(x, preferred_element_type) for x in (lhs, rhs))
    return grouped_matmul(
        lhs_MK, rhs_G, group_sizes, transpose_rhs=transpose_rhs, implementation=implementation
    )
