"""Grouped products for Hopper GPUs in Pallas Mosaic GPU: TMA, wgmma, blocks that stay.

    out[m] = lhs[m] @ rhs[g(m)]          outer[g] = sum over rows m of group g of lhs[m] grad[m]^T

Letters: M rows, G groups, K contracted width, N output width.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from pallas_kernels import manual_axes
from pallas_kernels.grouped_matmul import mosaic_gpu_matmul, mosaic_gpu_outer
from pallas_kernels.grouped_matmul import mosaic_gpu_ring as ring

_DTYPES = (jnp.bfloat16, jnp.float16)


@dataclasses.dataclass(frozen=True)
class Config:
    """Tuned choices; see the kernels.

    tile_n: columns of a tile. num_stages: slots of the ring. band: tiles of rows that one slice of
    a group's matrix meets before the next slice. is_staggered: one warpgroup stores while the
    other multiplies.
    """

    tile_n: int = 256
    num_stages: int = 4
    band: int = 16
    is_staggered: bool = True


def matmul(
    lhs_MK,
    rhs,
    group_sizes_G,
    *,
    transpose_rhs: bool,
    out_dtype,
    config: Config | None = None,
    interpret: bool = False,
):
    """Rows times their group's matrix; arguments are already checked."""
    kernel = functools.partial(
        mosaic_gpu_matmul.matmul,
        transpose_rhs=transpose_rhs,
        out_dtype=out_dtype,
        config=config or Config(),
        interpret=interpret,
    )
    return _call(kernel, _pad_rows(lhs_MK), rhs, group_sizes_G)[: lhs_MK.shape[0]]


def outer(
    lhs_MK,
    grad_MN,
    group_sizes_G,
    *,
    out_dtype,
    config: Config | None = None,
    interpret: bool = False,
):
    """Sum of outer products within each group; arguments are already checked."""
    kernel = functools.partial(
        mosaic_gpu_outer.outer,
        out_dtype=out_dtype,
        config=config or Config(),
        interpret=interpret,
    )
    return _call(kernel, _pad_rows(lhs_MK), _pad_rows(grad_MN), group_sizes_G)


def why_not(problem) -> str | None:
    """The reason why these kernels cannot run a problem, or None."""
    if problem.platform != "gpu":
        return f"it needs a Hopper GPU, the default backend is {problem.platform}"
    capability = getattr(jax.devices()[0], "compute_capability", "unknown")
    if capability != "9.0":
        return f"it needs compute capability 9.0 (Hopper), the GPU has {capability}"
    if problem.lhs.dtype not in _DTYPES:
        return f"it needs bfloat16 or float16, got {problem.lhs.dtype}"
    widths = (problem.lhs.shape[1], *problem.rhs.shape[1:])
    if any(width % ring.STEP for width in widths):
        return f"it needs widths that are multiples of {ring.STEP}, got {widths}"
    return None


def _call(kernel, lhs, other, group_sizes):
    @jax.custom_batching.sequential_vmap
    def call(lhs, other, group_sizes):
        # A kernel's output forgets the mesh axes on which its inputs vary.
        return manual_axes.align(kernel(lhs, other, group_sizes), lhs)[0]

    return call(lhs, other, group_sizes)


def _pad_rows(x):
    """TMA with a swizzle needs whole groups of 8 rows."""
    missing = -x.shape[0] % 8
    return jnp.pad(x, ((0, missing), (0, 0))) if missing else x
