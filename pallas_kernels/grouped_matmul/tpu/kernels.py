"""The kernels of grouped products for TPUs in Pallas Mosaic.

    out[m] = lhs[m] @ rhs[g(m)]          outer[g] = sum over rows m of group g of lhs[m] grad[m]^T

The grid walks over column tiles and visits: a visit is a row tile and one of the groups that have
rows in it, known from group sizes in scalar memory. A group's matrix stays in VMEM through its
visits, a row tile of the result through the visits of the groups in it. Only pieces that hold rows
of the visit's group are multiplied, so a group costs about one piece more than its rows.

The kernels have not run on a TPU: they run in interpret mode and compile for v5e, v5p and v6e.

Letters: M rows, G groups, K contracted width, N output width; m, k, n those of a tile, p rows of
a piece.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import dtypes
from pallas_kernels.grouped_matmul.tpu import visits as visiting


@dtypes.in_32_bits
def matmul(lhs_MK, rhs, group_sizes_G, *, transpose_rhs, out_dtype, tiles, interpret):
    """Rows times their group's matrix, in tiles of these sizes."""
    num_rows, width = lhs_MK.shape[0], rhs.shape[1 if transpose_rhs else 2]
    visits = visiting.of_tiles(group_sizes_G, num_rows, tiles.rows)
    rhs_shape = (tiles.n, tiles.k) if transpose_rhs else (tiles.k, tiles.n)

    def lhs_block(n, visit, group_V, tile_V, *_):
        return tile_V[visit], 0

    def rhs_block(n, visit, group_V, *_):
        return group_V[visit], *((n, 0) if transpose_rhs else (0, n))

    def out_block(n, visit, group_V, tile_V, *_):
        return tile_V[visit], n

    return pl.pallas_call(
        functools.partial(_matmul_kernel, tiles.piece_rows, transpose_rhs),
        name="grouped_matmul",
        out_shape=_like(lhs_MK, (num_rows, width), out_dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(visits),
            grid=(pl.cdiv(width, tiles.n), visits.tile_V.size),
            in_specs=(
                pl.BlockSpec((tiles.rows, tiles.k), lhs_block),
                pl.BlockSpec((None, *rhs_shape), rhs_block),
            ),
            out_specs=pl.BlockSpec((tiles.rows, tiles.n), out_block),
        ),
        compiler_params=_params(tiles, "parallel", "arbitrary"),
        interpret=interpret,
    )(*visits, lhs_MK, rhs)


def _matmul_kernel(piece_rows, transpose_rhs, group_V, tile_V, first_V, end_V, lhs_mk, rhs, out_mn):
    visit = pl.program_id(1)
    first, end = first_V[visit], end_V[visit]

    @pl.when((visit == 0) | (tile_V[visit] != tile_V[jnp.maximum(visit - 1, 0)]))
    def _():
        out_mn[...] = jnp.zeros_like(out_mn)  # rows of no group keep these

    @pl.loop(first // piece_rows, pl.cdiv(end, piece_rows))
    def _(piece):
        rows, is_ours_p1 = _piece(piece, piece_rows, first, end)
        contract = ((1,), (1 if transpose_rhs else 0,))
        product_pn = _dot(lhs_mk[rows, :], rhs[...], contract).astype(out_mn.dtype)
        out_mn[rows, :] = jnp.where(is_ours_p1, product_pn, out_mn[rows, :])


@dtypes.in_32_bits
def outer(lhs_MK, grad_MN, group_sizes_G, *, out_dtype, tiles, interpret):
    """Sum of outer products within each group, in tiles of these sizes."""
    num_rows, lhs_width = lhs_MK.shape
    width, num_groups = grad_MN.shape[1], group_sizes_G.shape[0]
    visits = visiting.of_groups(group_sizes_G, num_rows, tiles.rows)

    def lhs_block(n, k, visit, group_V, tile_V, *_):
        return tile_V[visit], k

    def grad_block(n, k, visit, group_V, tile_V, *_):
        return tile_V[visit], n

    def out_block(n, k, visit, group_V, *_):
        return group_V[visit], k, n

    return pl.pallas_call(
        functools.partial(_outer_kernel, tiles.piece_rows),
        name="grouped_outer",
        out_shape=_like(lhs_MK, (num_groups, lhs_width, width), out_dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(visits),
            grid=(pl.cdiv(width, tiles.n), pl.cdiv(lhs_width, tiles.k), visits.tile_V.size),
            in_specs=(
                pl.BlockSpec((tiles.rows, tiles.k), lhs_block),
                pl.BlockSpec((tiles.rows, tiles.n), grad_block),
            ),
            out_specs=pl.BlockSpec((None, tiles.k, tiles.n), out_block),
            scratch_shapes=(pltpu.VMEM((tiles.k, tiles.n), jnp.float32),),
        ),
        compiler_params=_params(tiles, "parallel", "parallel", "arbitrary"),
        interpret=interpret,
    )(*visits, lhs_MK, grad_MN)


def _outer_kernel(piece_rows, group_V, tile_V, first_V, end_V, lhs_mk, grad_mn, out_kn, sums_kn):
    visit, last = pl.program_id(2), pl.num_programs(2) - 1
    first, end = first_V[visit], end_V[visit]
    group = group_V[visit]
    is_new = (visit == 0) | (group != group_V[jnp.maximum(visit - 1, 0)])

    @pl.when(is_new & (first == end))
    def _():
        sums_kn[...] = jnp.zeros_like(sums_kn)  # an empty group

    first_piece = first // piece_rows

    @pl.loop(first_piece, pl.cdiv(end, piece_rows))
    def _(piece):
        rows, is_ours_p1 = _piece(piece, piece_rows, first, end)
        # Both sides, because other rows may hold infinite values.
        lhs_pk, grad_pn = (jnp.where(is_ours_p1, x[rows, :], 0) for x in (lhs_mk, grad_mn))
        # A group's first piece overwrites, which saves a pass that clears the sums.
        before_kn = jnp.where(is_new & (piece == first_piece), 0, sums_kn[...])
        sums_kn[...] = before_kn + _dot(lhs_pk, grad_pn, ((0,), (0,)))

    @pl.when((visit == last) | (group != group_V[jnp.minimum(visit + 1, last)]))
    def _():
        out_kn[...] = sums_kn[...].astype(out_kn.dtype)


def _piece(piece, piece_rows, first, end):
    """The rows of a piece within its tile, and whether each lies in first .. end."""
    start = pl.multiple_of(piece * piece_rows, piece_rows)
    row_p1 = start + jax.lax.broadcasted_iota(jnp.int32, (piece_rows, 1), 0)
    return pl.ds(start, piece_rows), (row_p1 >= first) & (row_p1 < end)


def _dot(lhs, rhs, contract):
    return jax.lax.dot_general(
        lhs,
        rhs,
        (contract, ((), ())),
        precision=jax.lax.Precision.HIGHEST if lhs.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


def _like(x, shape, dtype):
    axes = jax.typeof(x).manual_axis_type  # inside shard_map outputs vary as inputs do
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=axes)


def _params(tiles, *semantics):
    return pltpu.CompilerParams(
        dimension_semantics=semantics, vmem_limit_bytes=tiles.vmem_limit_bytes
    )
