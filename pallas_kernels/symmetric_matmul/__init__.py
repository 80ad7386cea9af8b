"""Products with a symmetric result, as Muon's Newton-Schulz iteration needs them.

    out = scale lhs rhs^T + addend_scale addend + diagonal I

The caller knows that lhs rhs^T is symmetric: rhs is lhs, or both are polynomials of one symmetric
matrix. So kernels compute the upper triangle only and write both halves.

Letters: M side of the result, K contracted width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import manual_axes, selection
from pallas_kernels.selection import Implementation
from pallas_kernels.symmetric_matmul import reference, xla
from pallas_kernels.symmetric_matmul.gpu import dispatch as on_gpu
from pallas_kernels.symmetric_matmul.tpu import dispatch as on_tpu


class Problem(NamedTuple):
    """What decides whether an implementation can run; arrays may be ShapeDtypeStructs."""

    arrays: list[Any]  # the distinct ones of lhs, rhs and addend, lhs first
    platform: str
    is_named: bool  # asked for by name, so it runs even where another one is faster

    @property
    def lhs(self):
        return self.arrays[0]


class _Kernel(NamedTuple):
    matmul: Callable
    why_not: Callable[[Problem], str | None]


# In order of preference. A kernel is `matmul(lhs, rhs, addend, *, scale, addend_scale, diagonal)`
# and a function that returns None or the reason why a problem is beyond it.
_KERNELS = {
    "mosaic_gpu": _Kernel(on_gpu.matmul, on_gpu.why_not),
    "mosaic_tpu": _Kernel(on_tpu.matmul, on_tpu.why_not),
    "xla": _Kernel(xla.matmul, selection.always),
    "reference": _Kernel(reference.matmul, selection.always),
}


def symmetric_matmul(
    lhs,
    rhs=None,
    addend=None,
    *,
    scale: jax.typing.ArrayLike = 1.0,
    addend_scale: jax.typing.ArrayLike = 1.0,
    diagonal: jax.typing.ArrayLike = 0.0,
    implementation: Implementation = "auto",
) -> jax.Array:
    """Returns scale lhs rhs^T + addend_scale addend + diagonal I, (..., M, M) in lhs's dtype.

    lhs and rhs are (..., M, K), rhs defaults to lhs, addend is (..., M, M) and symmetric. The three
    factors are scalars; changing them compiles nothing. Sums are float32. Kernels return a matrix
    that is exactly symmetric, whatever lhs rhs^T would be; "xla" and "reference" one that is as
    symmetric as the product. On a mesh of several devices kernels run only inside shard_map.

    Raises ValueError on shapes or dtypes that do not fit, NotImplementedError when the named
    implementation cannot run here.
    """
    lhs = jnp.asarray(lhs)
    rhs = lhs if rhs is None else jnp.asarray(rhs)
    addend = None if addend is None else jnp.asarray(addend)
    _check(lhs, rhs, addend)
    arrays = on_tpu.distinct(lhs, rhs, addend)
    problem = Problem(arrays, jax.default_backend(), is_named=implementation != "auto")
    kernel = _KERNELS[selection.select(_KERNELS, problem, implementation)]
    lhs, rhs, addend = manual_axes.align(lhs, rhs, addend)
    return kernel.matmul(
        lhs, rhs, addend, scale=scale, addend_scale=addend_scale, diagonal=diagonal
    )


def symmetric_matmul_choice(lhs) -> selection.Choice:
    """Says what implementation="auto" takes for lhs lhs^T; lhs may be a ShapeDtypeStruct."""
    return selection.choose(_KERNELS, Problem([lhs], jax.default_backend(), is_named=False))


def _check(lhs, rhs, addend):
    if lhs.ndim < 2 or lhs.shape != rhs.shape or 0 in lhs.shape:
        raise ValueError(
            "expected lhs and rhs of one shape (..., M, K) with no dimension of size 0, got "
            f"{lhs.shape} and {rhs.shape}."
        )
    wanted = (*lhs.shape[:-1], lhs.shape[-2])
    if addend is not None and addend.shape != wanted:
        raise ValueError(f"expected an addend (..., M, M) = {wanted}, got {addend.shape}.")
    dtypes = {x.dtype for x in (lhs, rhs, addend) if x is not None}
    if len(dtypes) > 1 or not jnp.issubdtype(lhs.dtype, jnp.floating):
        raise ValueError(
            f"all arrays need one floating-point dtype, got {sorted(map(str, dtypes))}; cast them."
        )
