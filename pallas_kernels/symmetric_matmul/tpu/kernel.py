"""scale lhs rhs^T + addend_scale addend + diagonal I on TPUs, known to be symmetric.

A grid step has one matrix, whole in VMEM. It walks the tiles on and above the diagonal, whose
places are prefetched scalars, and writes each tile twice: as it is and transposed. Meanwhile the
next matrix comes in and the last result leaves. So HBM moves each array once: at 768 x 2048 a
matrix is 4.3 MB for 1.6 GFLOP, 3.1 us of a v5p core's share of the bandwidth against 7.0 us of its
peak; on v6e, 2.6 against 1.8 us, the product is bound by memory. The kernel has not run on a TPU.

Letters: B batch, M side of the result, K contracted width.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.symmetric_matmul import tiles

LANES = 128
# Bundles in libtpu's static schedule of a tile at K = 2048 / cycles of its multiplications at peak.
# A bundle takes a cycle at least, so the first number is a lower bound, as v5p's last one shows:
#          128          256           512
#   v5p    721 / 512    2204 / 2048   7735 / 8192
#   v6e    581 / 128     957 / 512    2993 / 2048
TILES = (512, 256, LANES)
# VMEM for the sums of a tile, their transpose and what the compiler spills.
TILE_BYTES = 12 << 20


def choose_tile(size: int) -> int:
    """The largest tile that divides the side and leaves a half to skip."""
    return next((tile for tile in TILES if size % tile == 0 and size > tile), LANES)


def vmem_bytes(arrays: Sequence[Any]) -> int:
    """Bytes of VMEM for these distinct arrays (or ShapeDtypeStructs), lhs first.

    Every matrix and the result have two buffers each. v5p's 64 MiB hold a Gram matrix of
    2048 x 4096 or a polynomial of 2048 x 2048; v6e's 128 MiB the Gram matrix of 2048 x 8192.
    """
    side, itemsize = arrays[0].shape[-2], arrays[0].dtype.itemsize
    entries = side * side + sum(math.prod(x.shape[-2:]) for x in arrays)
    return 2 * entries * itemsize + TILE_BYTES


# jit: an iteration's products of one shape become one kernel, compiled once.
@functools.partial(jax.jit, static_argnames=("which", "interpret"))
def product(coefficients, *arrays_B, which, interpret):
    """Returns the result (B, M, M); coefficients is (3,) float32.

    `which` gives the positions of lhs, rhs and addend among the arrays; None if there is no addend.
    """
    batch, size, _ = arrays_B[0].shape
    tile = choose_tile(size)
    table = tiles.items(size // tile, tiles_per_item=1)

    def block(shape):
        return pl.BlockSpec((pl.squeezed, *shape), lambda b, *_: (b, 0, 0))

    return pl.pallas_call(
        functools.partial(_kernel, which=which, tile=tile),
        out_shape=jax.ShapeDtypeStruct((batch, size, size), arrays_B[0].dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch,),
            in_specs=[block(x.shape[1:]) for x in arrays_B],
            out_specs=block((size, size)),
        ),
        name="symmetric_product",
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",),  # v5p has two cores
            vmem_limit_bytes=vmem_bytes(arrays_B),
        ),
        interpret=pltpu.InterpretParams(detect_races=True) if interpret else False,
    )(jnp.asarray(table), coefficients, *arrays_B)


def _kernel(table, coefficients, *refs, which, tile):
    *arrays, out = refs
    lhs, rhs = (arrays[i] for i in which[:2])
    addend = None if which[2] is None else arrays[which[2]]
    scale, addend_scale, diagonal = (coefficients[i] for i in range(3))
    row_id, col_id = (lax.broadcasted_iota(jnp.int32, (tile, tile), dim) for dim in (0, 1))

    def span(block):
        return pl.ds(pl.multiple_of(block * tile, tile), tile)

    @pl.loop(0, table.shape[0])
    def _(item):
        row, col = table[item, 0], table[item, 1]
        rows, cols = span(row), span(col)
        value = scale * lax.dot_general(
            lhs[rows, :],
            rhs[cols, :],
            (((1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        if addend is not None:
            value += addend_scale * addend[rows, cols].astype(jnp.float32)

        @pl.when(row < col)
        def _():
            out[rows, cols] = value.astype(out.dtype)
            out[cols, rows] = value.T.astype(out.dtype)

        @pl.when(row == col)
        def _():
            # Sums above and below the diagonal may differ in rounding.
            whole = jnp.where(row_id <= col_id, value, value.T)
            whole += jnp.where(row_id == col_id, diagonal, 0.0)
            out[rows, cols] = whole.astype(out.dtype)
