"""Products of rows with the matrix of the group they belong to, as experts need.

    out[m] = lhs[m] @ rhs[g(m)]          outer[g] = sum over rows m of group g of lhs[m] grad[m]^T

Rows are sorted by group: group g owns the group_sizes[g] rows after those of groups 0 .. g-1.
Group sizes stay on the device; changing them compiles nothing.

Letters: M rows, G groups, K contracted width, N output width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import manual_axes, selection
from pallas_kernels.grouped_matmul import reference, xla
from pallas_kernels.grouped_matmul.gpu import dispatch as on_gpu
from pallas_kernels.grouped_matmul.tpu import dispatch as on_tpu
from pallas_kernels.selection import Implementation


class Problem(NamedTuple):
    """What decides whether an implementation can run; arrays may be ShapeDtypeStructs."""

    lhs: Any
    rhs: Any
    platform: str


class _Kernel(NamedTuple):
    matmul: Callable
    outer: Callable
    why_not: Callable[[Problem], str | None]


class _Options(NamedTuple):
    """The static side of a product and of its derivatives."""

    implementation: str
    transpose_rhs: bool
    out_dtype: Any


# In order of preference. A kernel is `matmul(lhs, rhs, group_sizes, *, transpose_rhs, out_dtype)`,
# `outer(lhs, grad, group_sizes, *, out_dtype)` and a function that returns None or the reason why
# a problem is beyond them; this file differentiates each product through the other two.
_KERNELS = {
    "mosaic_gpu": _Kernel(on_gpu.matmul, on_gpu.outer, on_gpu.why_not),
    "mosaic_tpu": _Kernel(on_tpu.matmul, on_tpu.outer, on_tpu.why_not),
    "xla": _Kernel(xla.matmul, xla.outer, selection.always),
    "reference": _Kernel(reference.matmul, reference.outer, selection.always),
}


def grouped_matmul(
    lhs,
    rhs,
    group_sizes,
    *,
    transpose_rhs: bool = False,
    preferred_element_type=None,
    implementation: Implementation = "auto",
) -> jax.Array:
    """Multiplies each row of lhs (M, K) by its group's matrix in rhs (G, K, N), to (M, N).

    With transpose_rhs, rhs is (G, N, K). group_sizes is (G,) integers with a sum of at most M; rows
    beyond the sum are 0 in the result and in lhs's gradient. Sums are float32 (float64 for float64
    arrays); the result has preferred_element_type (default: lhs's dtype). Raises ValueError on
    shapes or dtypes that do not fit, NotImplementedError when the named implementation cannot run
    here.
    """
    lhs, rhs, group_sizes = _checked(lhs, rhs, group_sizes)
    if rhs.ndim != 3 or rhs.shape[2 if transpose_rhs else 1] != lhs.shape[1]:
        layout = "(G, N, K)" if transpose_rhs else "(G, K, N)"
        raise ValueError(
            f"expected lhs (M, K) and rhs {layout} with transpose_rhs={transpose_rhs}, got "
            f"{lhs.shape} and {rhs.shape}; the contracted width K must agree."
        )
    if rhs.shape[0] != group_sizes.shape[0]:
        raise ValueError(
            f"expected one group size per matrix of rhs {rhs.shape}, got group_sizes with shape "
            f"{group_sizes.shape}."
        )
    name = select(lhs, rhs, implementation)
    out_dtype = jnp.dtype(preferred_element_type or lhs.dtype)
    options = _Options(name, transpose_rhs, out_dtype)
    return _matmul(options, *manual_axes.align(lhs, rhs, group_sizes))


def grouped_outer(
    lhs,
    grad,
    group_sizes,
    *,
    preferred_element_type=None,
    implementation: Implementation = "auto",
) -> jax.Array:
    """Sums lhs[m] grad[m]^T over the rows of each group: (M, K), (M, N) -> (G, K, N).

    This is grouped_matmul's gradient in rhs. Groups of size 0 give zeros; rows beyond the sum of
    group_sizes count nowhere. Sums are float32, the result has preferred_element_type (default:
    lhs's dtype). Raises as grouped_matmul does.
    """
    lhs, grad, group_sizes = _checked(lhs, grad, group_sizes)
    if grad.ndim != 2 or grad.shape[0] != lhs.shape[0]:
        raise ValueError(
            f"expected lhs (M, K) and grad (M, N), got {lhs.shape} and {grad.shape}; "
            "the number of rows M must agree."
        )
    name = select(lhs, grad, implementation)
    out_dtype = jnp.dtype(preferred_element_type or lhs.dtype)
    options = _Options(name, False, out_dtype)
    return _outer(options, *manual_axes.align(lhs, grad, group_sizes))


def select(lhs, rhs, implementation: Implementation) -> str:
    """The name of the kernel that runs; raises as grouped_matmul does when it cannot."""
    return selection.select(_KERNELS, Problem(lhs, rhs, jax.default_backend()), implementation)


def grouped_matmul_choice(lhs, rhs) -> selection.Choice:
    """Says what implementation="auto" takes for these arrays (or ShapeDtypeStructs)."""
    return selection.choose(_KERNELS, Problem(lhs, rhs, jax.default_backend()))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matmul(options, lhs, rhs, group_sizes):
    kernel = _KERNELS[options.implementation]
    return kernel.matmul(
        lhs,
        rhs,
        group_sizes,
        transpose_rhs=options.transpose_rhs,
        out_dtype=options.out_dtype,
    )


def _matmul_fwd(options, lhs, rhs, group_sizes):
    return _matmul(options, lhs, rhs, group_sizes), (lhs, rhs, group_sizes)


def _matmul_bwd(options, residuals, grad):
    lhs, rhs, group_sizes = residuals
    grad = grad.astype(lhs.dtype)
    to_lhs = options._replace(transpose_rhs=not options.transpose_rhs, out_dtype=lhs.dtype)
    dlhs = _matmul(to_lhs, grad, rhs, group_sizes)
    pair = (grad, lhs) if options.transpose_rhs else (lhs, grad)
    drhs = _outer(options._replace(out_dtype=rhs.dtype), *pair, group_sizes)
    return dlhs, drhs, None


_matmul.defvjp(_matmul_fwd, _matmul_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _outer(options, lhs, grad, group_sizes):
    kernel = _KERNELS[options.implementation]
    return kernel.outer(lhs, grad, group_sizes, out_dtype=options.out_dtype)


def _outer_fwd(options, lhs, grad, group_sizes):
    return _outer(options, lhs, grad, group_sizes), (lhs, grad, group_sizes)


def _outer_bwd(options, residuals, cotangent_GKN):
    lhs, grad, group_sizes = residuals
    cotangent_GKN = cotangent_GKN.astype(lhs.dtype)
    to_lhs = options._replace(transpose_rhs=True, out_dtype=lhs.dtype)
    to_grad = options._replace(transpose_rhs=False, out_dtype=grad.dtype)
    dlhs = _matmul(to_lhs, grad, cotangent_GKN, group_sizes)
    return dlhs, _matmul(to_grad, lhs, cotangent_GKN, group_sizes), None


_outer.defvjp(_outer_fwd, _outer_bwd)


def _checked(lhs, rhs, group_sizes):
    """The arrays, with group sizes as the int32 that kernels take."""
    lhs, rhs, group_sizes = map(jnp.asarray, (lhs, rhs, group_sizes))
    if lhs.ndim != 2 or 0 in lhs.shape or 0 in rhs.shape:
        raise ValueError(
            f"expected lhs (M, K) and no dimension of size 0, got {lhs.shape} and {rhs.shape}."
        )
    if lhs.dtype != rhs.dtype or not jnp.issubdtype(lhs.dtype, jnp.floating):
        raise ValueError(
            f"both sides need one floating-point dtype, got {lhs.dtype} and {rhs.dtype}; "
            "cast them first."
        )
    if group_sizes.ndim != 1 or not jnp.issubdtype(group_sizes.dtype, jnp.integer):
        raise ValueError(
            f"group_sizes must be one-dimensional integers, got {group_sizes.dtype} with shape "
            f"{group_sizes.shape}."
        )
    return lhs, rhs, group_sizes.astype(jnp.int32)
