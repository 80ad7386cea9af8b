"""One pass over a matrix on Hopper: a block of threads has a tile of 64 rows, or of one square.

    rows      64 rows by 256 columns: 64 blocks (1, 128) side by side, twice
    squares   128 rows by 128 columns

One warpgroup waits for its tile, and others of the same multiprocessor work meanwhile: shared
memory is 48 KB of bfloat16 and its values, so four fit. No number is read twice.

Letters: M rows, N columns, I blocks of a row, J squares of a column.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper
from pallas_kernels.quantize import formats
from pallas_kernels.quantize.gpu import blocks

ROWS = hopper.ROWS
SIDE = formats.SIDE
_WGMMA = plgpu.Layout.WGMMA


def rows(x_MN, *, scale: formats.Scale, interpret: bool):
    """Values (M, N) and scales (I, M) of rows of 128; M is a multiple of 64 and N of 128."""
    num_blocks = 2 if x_MN.shape[1] % (2 * SIDE) == 0 else 1
    body = functools.partial(_rows, scale=scale, num_blocks=num_blocks)
    scales = x_MN.shape[1] // SIDE, x_MN.shape[0]
    tile = ROWS, num_blocks * SIDE
    return _call(body, x_MN, scales, tile, (num_blocks, ROWS), interpret, "quantize_rows")


def squares(x_MN, *, scale: formats.Scale, interpret: bool):
    """Values (M, N) and scales (J, I, 128) of squares, each scale repeated; 128 divides M and N."""
    body = functools.partial(_squares, scale=scale)
    scales = x_MN.shape[0] // SIDE, x_MN.shape[1] // SIDE, SIDE
    return _call(body, x_MN, scales, (SIDE, SIDE), (SIDE,), interpret, "quantize_squares")


class _Memory(NamedTuple):
    landed: Any
    scales_smem: Any
    values_smem: Any
    x_smem: Any


def _call(body, x_MN, scales_shape, tile, scales_tile, interpret, name):
    num_rows, num_cols = x_MN.shape

    def kernel(x, values, scales, **scratch):
        memory = hopper.pick(_Memory, scratch)
        row, col = (lax.axis_index(axis) for axis in ("row", "col"))
        at = pl.ds(row * tile[0], tile[0]), pl.ds(col * tile[1], tile[1])
        plgpu.copy_gmem_to_smem(x.at[at], memory.x_smem, memory.landed)
        plgpu.barrier_wait(memory.landed)
        body(memory)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(memory.values_smem, values.at[at])
        if len(scales_shape) == 2:
            at = pl.ds(col * scales_tile[0], scales_tile[0]), at[0]
        else:
            at = row, col
        plgpu.copy_smem_to_gmem(memory.scales_smem, scales.at[at])
        plgpu.wait_smem_to_gmem(0)

    return plgpu.kernel(
        kernel,
        out_type=(
            jax.ShapeDtypeStruct(x_MN.shape, formats.VALUES),
            jax.ShapeDtypeStruct(scales_shape, jnp.float32),
        ),
        scratch_types=dict(
            landed=plgpu.Barrier(num_arrivals=1),
            scales_smem=plgpu.SMEM(scales_tile, jnp.float32),
            values_smem=hopper.tiled(tile, formats.VALUES),
            x_smem=hopper.tiled(tile, x_MN.dtype),
        ),
        kernel_name=name,
        grid=(num_rows // tile[0], num_cols // tile[1]),
        grid_names=("row", "col"),
        interpret=plgpu.InterpretGPUParams(detect_races=True) if interpret else None,
        compiler_params=plgpu.CompilerParams(
            approx_math=False,
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup,
        ),
    )(x_MN)


def _rows(memory: _Memory, *, scale, num_blocks):
    for i in range(num_blocks):
        cols = pl.ds(i * SIDE, SIDE)
        x = plgpu.layout_cast(memory.x_smem[:, cols], _WGMMA).astype(jnp.float32)
        found = blocks.scales_of(blocks.magnitudes(x).max(axis=1), scale)
        memory.values_smem[:, cols] = blocks.values_of(x, found, scale)
        memory.scales_smem[i] = found


def _squares(memory: _Memory, *, scale):
    halves = pl.ds(0, ROWS), pl.ds(ROWS, ROWS)

    def read(at):
        return plgpu.layout_cast(memory.x_smem[at], _WGMMA).astype(jnp.float32)

    for at in halves:
        memory.scales_smem[at] = blocks.magnitudes(read(at)).max(axis=1)
    plgpu.commit_smem()
    # Every row of a tile sees the maxima of all rows, as its columns, and so finds one scale.
    of_rows = plgpu.load(memory.scales_smem, layout=_WGMMA.reduce(0), optimized=False)
    found = blocks.scales_of(lax.broadcast_in_dim(of_rows, (ROWS, SIDE), (1,)).max(axis=1), scale)
    plgpu.commit_smem()
    for at in halves:
        memory.values_smem[at] = blocks.values_of(read(at), found, scale)
        memory.scales_smem[at] = found
