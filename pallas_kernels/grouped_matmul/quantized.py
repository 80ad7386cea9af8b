"""Grouped products of FP8 blocks: `quantize.Quantized` rows and matrices, sums in float32.

    out[m] = lhs[m] @ rhs[g(m)]

They have no derivative: a layer says which of its gradients are products of FP8.

Letters: M rows, G groups, K contracted width, N output width.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import selection
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.grouped_matmul.gpu import dispatch as on_gpu
from pallas_kernels.quantize import ROW_BLOCK, Quantized, dequantize
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

    With transpose_rhs, rhs is (G, N, K). On Hopper a kernel reads rows and squares of FP8, where
    128 divides both widths and the result has 16 bits. Elsewhere `grouped_matmul` multiplies both
    after they are read back in preferred_element_type, which is exact if scales are powers of two
    and that dtype is bfloat16 or float32. Implementations and errors are those of grouped_matmul.
    """
    width, contracted = lhs.values.shape[-1], rhs.values.shape[-1 if transpose_rhs else -2]
    if width != contracted:
        raise ValueError(
            f"the contracted width must agree with transpose_rhs={transpose_rhs}, got "
            f"{lhs.values.shape} and {rhs.values.shape}."
        )
    if implementation in ("auto", "mosaic_gpu"):
        problem = _Problem(lhs, rhs, jnp.dtype(preferred_element_type), jax.default_backend())
        if _why_not_gpu(problem) is None:
            return on_gpu.matmul_quantized(
                lhs,
                rhs,
                jnp.asarray(group_sizes, jnp.int32),
                transpose_rhs=transpose_rhs,
                out_dtype=preferred_element_type,
            )
    lhs_MK, rhs_G = (dequantize(x, preferred_element_type) for x in (lhs, rhs))
    return grouped_matmul(
        lhs_MK, rhs_G, group_sizes, transpose_rhs=transpose_rhs, implementation=implementation
    )


def grouped_matmul_quantized_choice(
    lhs: Quantized, rhs: Quantized, preferred_element_type=jnp.bfloat16
) -> selection.Choice:
    """Says what implementation="auto" takes: the FP8 kernel, or plain products."""
    problem = _Problem(lhs, rhs, jnp.dtype(preferred_element_type), jax.default_backend())
    return selection.choose(_KERNELS, problem)


def reads_transposed(
    rhs: Quantized, preferred_element_type=jnp.bfloat16, implementation: Implementation = "auto"
) -> bool:
    """Whether a kernel multiplies rows with rhs (G, K, N), which it transposes at each call."""
    rows = Quantized(rhs.values, rhs.scales, ROW_BLOCK)  # the only ones that a kernel takes
    problem = _Problem(rows, rhs, jnp.dtype(preferred_element_type), jax.default_backend())
    return implementation in ("auto", "mosaic_gpu") and _why_not_gpu(problem) is None


class _Problem(NamedTuple):
    lhs: Quantized
    rhs: Quantized
    out_dtype: Any
    platform: str


class _Kernel(NamedTuple):
    why_not: Any


def _why_not_gpu(problem: _Problem) -> str | None:
    if problem.out_dtype.itemsize != 2:
        return f"it needs a result of 16 bits, got {problem.out_dtype}"
    return on_gpu.why_not_quantized(problem.lhs, problem.rhs, problem.platform)


_KERNELS = {"mosaic_gpu": _Kernel(_why_not_gpu), "read back": _Kernel(selection.always)}
