"""Grouped products for TPUs in Pallas Mosaic: when, and in which tiles.

    out[m] = lhs[m] @ rhs[g(m)]          outer[g] = sum over rows m of group g of lhs[m] grad[m]^T

Letters: M rows, G groups, K contracted width, N output width.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.grouped_matmul.tpu import kernels
from pallas_kernels.grouped_matmul.tpu import tiles as tiling


def why_not(problem) -> str | None:
    """None, or the reason why a problem or its gradients are beyond these kernels."""
    if not pltpu.is_tpu_device():
        return f"it needs a TPU, the default backend is {problem.platform}"
    dtype = problem.lhs.dtype
    if dtype not in (jnp.bfloat16, jnp.float32):
        return f"TPUs multiply bfloat16 and float32, not {dtype}"
    widths = problem.lhs.shape[1], *problem.rhs.shape[1:]
    if any(width % tiling.LANES for width in widths):
        return f"widths must be multiples of {tiling.LANES}, got {widths}"
    if tiling.for_matmul(_chip(), max(widths), tiling.LANES, dtype.itemsize, 4) is None:
        return f"rows {max(widths)} wide do not fit into VMEM"
    return None


def matmul(
    lhs_MK, rhs, group_sizes_G, *, transpose_rhs: bool, out_dtype, tiles=None, interpret=False
):
    """Rows times their group's matrix; arguments are already checked."""
    if tiles is None:
        width = rhs.shape[1 if transpose_rhs else 2]
        sizes = lhs_MK.dtype.itemsize, jnp.dtype(out_dtype).itemsize
        tiles = tiling.for_matmul(_chip(), lhs_MK.shape[1], width, *sizes)
    options = {"transpose_rhs": transpose_rhs, "tiles": tiles, "interpret": interpret}
    product = functools.partial(kernels.matmul, out_dtype=out_dtype, **options)
    # Visits differ between the members of a batch.
    return jax.custom_batching.sequential_vmap(product)(lhs_MK, rhs, group_sizes_G)


def outer(lhs_MK, grad_MN, group_sizes_G, *, out_dtype, tiles=None, interpret=False):
    """Sum of outer products within each group; arguments are already checked."""
    if tiles is None:
        sizes = lhs_MK.dtype.itemsize, jnp.dtype(out_dtype).itemsize
        tiles = tiling.for_outer(_chip(), lhs_MK.shape[1], grad_MN.shape[1], *sizes)
    product = functools.partial(
        kernels.outer, out_dtype=out_dtype, tiles=tiles, interpret=interpret
    )
    return jax.custom_batching.sequential_vmap(product)(lhs_MK, grad_MN, group_sizes_G)


def _chip():
    info = pltpu.get_tpu_info()
    return tiling.Chip(info.num_cores, info.vmem_capacity_bytes, info.mxu_column_size)
