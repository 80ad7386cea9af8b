"""Rows of a matrix in another order on Hopper: TMA alone moves them, whatever a number's width.

    out[m] = x[index[m]]

A block of threads asks for some rows, one request each, and stores them as one tile. XLA's gather
moves numbers one by one, which is slow where they have 8 or 16 bits.

Letters: T rows of x, M rows of the result, D their width, R rows of a block of threads.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper

LANE = 128  # TMA counts at most 256 numbers in a dimension
_TILE_BYTES = 48 * 1024  # four blocks of threads share a multiprocessor
LARGEST_ROW_BYTES = _TILE_BYTES // 4


class _Memory(NamedTuple):
    index_smem: Any
    listed: Any
    landed: Any
    rows_smem: Any


def rows_per_block(row_bytes: int) -> int:
    """A power of two, 4 to 64."""
    fitting = _TILE_BYTES // row_bytes
    return min(64, 1 << (fitting.bit_length() - 1))


def take_rows(x_TD, index_M, *, interpret: bool):
    """The rows (M, D); `rows_per_block` divides M, 128 divides D, and index is int32."""
    num_cols = x_TD.shape[1]
    step = rows_per_block(num_cols * x_TD.dtype.itemsize)
    tile = step, num_cols // LANE, LANE
    out_shape = (index_M.shape[0], *tile[1:])
    return plgpu.kernel(
        functools.partial(_kernel, step=step),
        out_type=jax.ShapeDtypeStruct(out_shape, x_TD.dtype),
        scratch_types=dict(
            index_smem=plgpu.SMEM((step,), jnp.int32),
            landed=plgpu.Barrier(num_arrivals=step),
            listed=plgpu.Barrier(num_arrivals=1),
            rows_smem=plgpu.SMEM(tile, x_TD.dtype),
        ),
        kernel_name="take_rows",
        grid=(index_M.shape[0] // step,),
        grid_names=("block",),
        interpret=plgpu.InterpretGPUParams(detect_races=True) if interpret else None,
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup,
        ),
    )(x_TD.reshape(-1, *tile[1:]), index_M).reshape(-1, num_cols)


def _kernel(x, index, out, *, step: int, **scratch):
    memory = hopper.pick(_Memory, scratch)
    own = pl.ds(lax.axis_index("block") * step, step)
    plgpu.copy_gmem_to_smem(index.at[own], memory.index_smem, memory.listed)
    plgpu.barrier_wait(memory.listed)

    @pl.loop(np.int32(0), np.int32(step))
    def _(i):
        row = memory.index_smem[i]
        plgpu.copy_gmem_to_smem(x.at[row], memory.rows_smem.at[i], memory.landed)

    plgpu.barrier_wait(memory.landed)
    plgpu.copy_smem_to_gmem(memory.rows_smem, out.at[own])
    plgpu.wait_smem_to_gmem(0)
