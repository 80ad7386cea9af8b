"""One pass over a matrix on Hopper: a block of threads has a tile of 64 rows, or of one square.

    rows      64 rows by 256 columns: 64 blocks (1, 128) side by side, twice
    squares   128 rows by 128 columns

Shared memory is 48 KB of bfloat16 and its values, so four blocks of threads share a multiprocessor.

Letters: M rows, N columns, I blocks of a row, J squares of a column.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper, passes
from pallas_kernels.quantize import formats
from pallas_kernels.quantize.gpu import blocks

ROWS = hopper.ROWS
SIDE = formats.SIDE
_WGMMA = plgpu.Layout.WGMMA


def rows(x_MN, *, scale: formats.Scale, interpret: bool):
    """Values (M, N) and scales (I, M) of rows of 128; M is a multiple of 64 and N of 128."""
    num_blocks = 2 if x_MN.shape[1] % (2 * SIDE) == 0 else 1
    tile = ROWS, num_blocks * SIDE

    def at_scales(row, col):
        return pl.ds(col * num_blocks, num_blocks), pl.ds(row * ROWS, ROWS)

    return _call(
        functools.partial(_rows, scale=scale, num_blocks=num_blocks),
        x_MN,
        (x_MN.shape[1] // SIDE, x_MN.shape[0]),
        tile,
        passes.Tile(1, (num_blocks, ROWS), at_scales),
        interpret,
        "quantize_rows",
    )


def squares(x_MN, *, scale: formats.Scale, interpret: bool):
    """Values (M, N) and scales (J, I, 128) of squares, each scale repeated; 128 divides M and N."""
    return _call(
        functools.partial(_squares, scale=scale),
        x_MN,
        (x_MN.shape[0] // SIDE, x_MN.shape[1] // SIDE, SIDE),
        (SIDE, SIDE),
        passes.Tile(1, (SIDE,), lambda row, col: (row, col)),
        interpret,
        "quantize_squares",
    )


def _call(body, x_MN, scales_shape, tile, scales_tile, interpret, name):
    def at(row, col):
        return tuple(pl.ds(i * side, side) for i, side in zip((row, col), tile, strict=True))

    whole = passes.Tile(0, tile, at)
    out_types = (
        jax.ShapeDtypeStruct(x_MN.shape, formats.VALUES),
        jax.ShapeDtypeStruct(scales_shape, jnp.float32),
    )
    return passes.call(
        body,
        (x_MN,),
        out_types,
        loads=(whole,),
        stores=(whole, scales_tile),
        grid=(x_MN.shape[0] // tile[0], x_MN.shape[1] // tile[1]),
        name=name,
        interpret=interpret,
    )


def _rows(loaded, stored, *, scale, num_blocks):
    (x_smem,), (values_smem, scales_smem) = loaded, stored
    for i in range(num_blocks):
        at = slice(None), pl.ds(i * SIDE, SIDE)
        x = blocks.read(x_smem.at[at])
        blocks.store_rows(x, values_smem.at[at], scales_smem.at[i], scale)


def _squares(loaded, stored, *, scale):
    (x_smem,), (values_smem, scales_smem) = loaded, stored
    halves = pl.ds(0, ROWS), pl.ds(ROWS, ROWS)
    for at in halves:
        scales_smem[at] = blocks.magnitudes(blocks.read(x_smem.at[at])).max(axis=1)
    plgpu.commit_smem()
    # Every row of a tile sees the maxima of all rows, as its columns, and so finds one scale.
    of_rows = plgpu.load(scales_smem, layout=_WGMMA.reduce(0), optimized=False)
    found = blocks.scales_of(lax.broadcast_in_dim(of_rows, (ROWS, SIDE), (1,)).max(axis=1), scale)
    plgpu.commit_smem()
    for at in halves:
        values_smem[at] = blocks.values_of(blocks.read(x_smem.at[at]), found, scale)
        scales_smem[at] = found
