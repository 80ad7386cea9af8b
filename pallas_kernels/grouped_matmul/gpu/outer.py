"""Sums of outer products within each group on Hopper: a tile is 128 by `tile_n` of one group.

    outer[g] = sum over rows m of group g of lhs[m] grad[m]^T

Both operands are read with the contracted rows as their slow dimension, which wgmma allows for 16
bits. TMA fills whole swizzled tiles, so blocks of 64 rows start at a multiple of 8, and a group's
first and last block may hold rows of other groups. The loading warpgroup zeroes those rows in
shared memory before it passes such a block on, in both operands because they may be NaN. It asks
for the next block first, so that two are on their way. All other blocks go from TMA to the
multiplying warpgroups.

Letters: M rows, G groups, K and N output widths. Shared memory, tile_n = 256, 4 stages: lhs 64 KB,
grad 128, out 32.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper
from pallas_kernels.grouped_matmul.gpu import ring, schedule

TILE_K = hopper.COMPUTE * hopper.ROWS


@dataclasses.dataclass(frozen=True)
class Config:
    """Tuned choices: columns of a tile, a multiple of 128, and slots of the ring."""

    tile_n: int = 256
    num_stages: int = 4


def outer(lhs_MK, grad_MN, group_sizes_G, *, out_dtype, config, interpret: bool):
    """The sums (G, K, N) of lhs and grad, whose M is a multiple of 8."""
    num_groups, width, out_width = group_sizes_G.shape[0], lhs_MK.shape[1], grad_MN.shape[1]
    assert config.num_stages >= 3  # an edge, the block asked for before it is cleaned, one in use
    num_blocks = ring.num_blocks(interpret)
    body = functools.partial(_kernel, config=config, num_blocks=num_blocks, interpret=interpret)
    return plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((num_groups, width, out_width), out_dtype),
        scratch_types=_scratch(lhs_MK.dtype, out_dtype, config, interpret),
        kernel_name="grouped_outer",
        grid=(num_blocks,),
        grid_names=("block",),
        **hopper.launch(interpret),
    )(schedule.of_outer(group_sizes_G), lhs_MK, grad_MN)


def _scratch(dtype, out_dtype, config, interpret):
    stages = config.num_stages
    return dict(
        lhs_smem=_slabs((stages, ring.STEP, TILE_K), dtype, interpret),
        grad_smem=_slabs((stages, ring.STEP, config.tile_n), dtype, interpret),
        out_smem=ring.stores(out_dtype, interpret),
        # The second half announces blocks to the loading warpgroup, which then cleans them.
        ready=plgpu.Barrier(num_arrivals=2, num_barriers=2 * stages),
        free=plgpu.Barrier(num_arrivals=hopper.COMPUTE, num_barriers=stages),
    )


def _slabs(shape, dtype, interpret):
    """A swizzled buffer, and its memory as (stages, slabs of 8 rows, tiles of 64, 8, 64).

    The swizzle permutes within a row of a tile, so a row of either view is the same bytes.
    """
    if interpret:
        return plgpu.SMEM(shape, dtype)
    stages, num_rows, width = shape
    slabs = (stages, num_rows // 8, width // ring.STEP, 8, ring.STEP)
    return plgpu.RefUnion(hopper.tiled(shape, dtype), plgpu.SMEM(slabs, dtype))


class _Memory(NamedTuple):
    """Slots of both operands, whose plain views are slabs, and the buffers of the epilogue."""

    lhs: ring.Rows
    grad: ring.Rows
    out: ring.Rows
    slots: hopper.Slots


def _memory(scratch, config, interpret) -> _Memory:
    lhs, grad, out = (
        ring.views(scratch[name], interpret) for name in ("lhs_smem", "grad_smem", "out_smem")
    )
    return _Memory(
        lhs, grad, out, hopper.Slots(scratch["ready"], scratch["free"], config.num_stages)
    )


def _kernel(table, lhs, grad, out, *, config, num_blocks, interpret, **scratch):
    block, warpgroup = lax.axis_index("block"), lax.axis_index("warpgroup")
    num_groups, width, out_width = out.shape
    k_tiles, n_tiles = pl.cdiv(width, TILE_K), pl.cdiv(out_width, config.tile_n)
    num_tiles = num_groups * k_tiles * n_tiles
    count = lax.div(num_tiles - block + (num_blocks - 1), jnp.int32(num_blocks))
    memory = _memory(scratch, config, interpret)

    def place(i):
        """(group, its first row and end, the tile's position in K and in N)"""
        index = jnp.minimum(block + i * num_blocks, num_tiles - 1)
        rank = lax.div(index, jnp.int32(k_tiles * n_tiles))
        local = index - rank * (k_tiles * n_tiles)
        k_tile = lax.div(local, jnp.int32(n_tiles))
        n_tile = local - k_tile * n_tiles
        group, start, end = (table[rank, j] for j in range(3))
        return group, start, end, k_tile, n_tile

    work = ring.Work(place, count)
    hopper.specialize(
        warpgroup,
        lambda warpgroup: _compute(work, out, warpgroup, config.tile_n, memory),
        lambda: _load(work, lhs, grad, config.tile_n, memory),
        compute_registers=232,
        load_registers=40,
    )


def _num_steps(start, end):
    """Blocks of rows from start, rounded down to a multiple of 8, to end."""
    spanned = end - (start & -8)
    return jnp.where(end > start, lax.div(spanned + (ring.STEP - 1), jnp.int32(ring.STEP)), 0)


def _compute(work, out, warpgroup, tile_n, memory):
    own = pl.ds(warpgroup * hopper.ROWS, hopper.ROWS)
    buffers = ring.Rows(*(view.at[warpgroup] for view in memory.out))

    def product(acc, slot):
        plgpu.wgmma(acc, memory.lhs.tiled.at[slot, :, own].T, memory.grad.tiled.at[slot])

    def of_tile(place, first_step):
        group, start, end, k, n = place
        num_steps = _num_steps(start, end)

        def total(acc):
            ring.multiply(acc, first_step, num_steps, product, memory.slots)
            return acc[...]

        acc = pl.run_scoped(total, hopper.accumulator(hopper.ROWS, tile_n))
        out_row, out_col = k * TILE_K + warpgroup * hopper.ROWS, n * tile_n
        ring.store(acc, out.at[group], out_row, out_col, hopper.ROWS, buffers)
        return first_step + num_steps

    ring.over_tiles(work, of_tile, jnp.int32(0))
    plgpu.wait_smem_to_gmem(0)


class _Edge(NamedTuple):
    """A loaded block in which only rows first .. last belong to the group; no edge if all 64 do."""

    slot: jax.Array | int
    first: jax.Array | int
    last: jax.Array | int


def _load(work, lhs, grad, tile_n, memory):
    slots = memory.slots

    def of_tile(place, carry):
        first_step, edge = carry
        _, start, end, k, n = place
        num_steps = _num_steps(start, end)

        def of_step(step, edge):
            slot = hopper.wait_for_slot(first_step + step, slots)
            row = pl.multiple_of((start & -8) + step * ring.STEP, 8)
            new = _Edge(slot, jnp.maximum(start - row, 0), jnp.minimum(end - row, ring.STEP))
            landed = slots.ready.at[jnp.where(_is_edge(new), slots.num_stages + slot, slot)]
            rows = pl.ds(row, ring.STEP)
            lhs_part = lhs.at[rows, pl.ds(k * TILE_K, TILE_K)]
            grad_part = grad.at[rows, pl.ds(n * tile_n, tile_n)]
            plgpu.copy_gmem_to_smem(lhs_part, memory.lhs.tiled.at[slot], landed)
            plgpu.copy_gmem_to_smem(grad_part, memory.grad.tiled.at[slot], landed)
            _pass_on(edge, memory)
            return new

        return first_step + num_steps, lax.fori_loop(0, num_steps, of_step, edge)

    none = _Edge(*(jnp.int32(x) for x in (0, 0, ring.STEP)))
    total, edge = ring.over_tiles(work, of_tile, (jnp.int32(0), none))
    _pass_on(edge, memory)
    hopper.drain(total, slots)


def _is_edge(edge):
    return (edge.first > 0) | (edge.last < ring.STEP)


def _pass_on(edge, memory):
    """Zeroes the rows of other groups in a block that is an edge, and announces the block."""
    ready, operands = memory.slots.ready, (memory.lhs.plain, memory.grad.plain)

    @pl.when(_is_edge(edge))
    def _():
        plgpu.barrier_wait(ready.at[memory.slots.num_stages + edge.slot])
        for operand in operands:
            _zero_outside(operand.at[edge.slot], edge.first, edge.last)
        plgpu.commit_smem()
        for _ in operands:  # in place of their copies
            plgpu.barrier_arrive(ready.at[edge.slot])


def _zero_outside(operand, first, last):
    """Zeroes the rows before first and from last on, one slab of 8 rows after the other."""
    pl.when(first > 0)(lambda: _zero_in_slab(operand, 0, first, last))

    @pl.loop(lax.div(last, jnp.int32(8)), ring.STEP // 8)
    def _(slab):
        _zero_in_slab(operand, slab, first, last)


def _zero_in_slab(operand, index, first, last):
    in_interpret_mode = operand.ndim == 2
    slab = operand.at[pl.ds(8 * index, 8)] if in_interpret_mode else operand.at[index]
    x = slab[...]
    row = 8 * index + lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 2)
    slab[...] = jnp.where((row >= first) & (row < last), x, jnp.zeros_like(x))
