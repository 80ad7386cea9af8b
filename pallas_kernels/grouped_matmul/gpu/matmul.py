"""Rows times their group's matrix on Hopper: a tile is 128 rows of one group by `tile_n` columns.

    out[m] = lhs[m] @ rhs[g(m)]

A tile whose second half has no rows keeps one warpgroup idle, so a group costs its rows rounded up
to 64. With tile_n = 256 a step of 64 loads 48 KB for 4.2 MFLOP: 87 FLOP per byte from L2.

Letters: M rows, G groups, K contracted width, N output width. Shared memory, tile_n = 256, 4
stages: lhs 64 KB, rhs 128, out 32.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper
from pallas_kernels.grouped_matmul.gpu import ring, schedule

TILE_M = hopper.COMPUTE * hopper.ROWS


@dataclasses.dataclass(frozen=True)
class Config:
    """Tuned choices.

    tile_n: columns of a tile, a multiple of 128. num_stages: slots of the ring. band: tiles of
    rows that one slice of a group's matrix meets before the next slice.
    """

    tile_n: int = 256
    num_stages: int = 4
    band: int = 16


class Tile(NamedTuple):
    """What the plain product and one with more work on its result do differently.

    load(rhs, smem, barrier, group, col, depth) asks for a step of a tile's slice of rhs in
    num_loads copies; store(acc, outs, row, col, num_rows, buffers) writes a warpgroup's result.
    """

    load: Callable
    store: Callable
    num_loads: int
    is_transposed: bool


def matmul(lhs_MK, rhs, group_sizes_G, *, transpose_rhs: bool, out_dtype, config, interpret: bool):
    """The product of lhs, whose M is a multiple of 8, with rhs (G, K, N) or (G, N, K)."""
    out_width = rhs.shape[1 if transpose_rhs else 2]

    def load(rhs, smem, barrier, group, col, depth):
        cols = pl.ds(col * config.tile_n, config.tile_n)
        part = rhs.at[group, cols, depth] if transpose_rhs else rhs.at[group, depth, cols]
        plgpu.copy_gmem_to_smem(part, smem, barrier)

    def store(acc, outs, row, col, num_rows, buffers):
        ring.store(acc, outs[0], row, col * config.tile_n, num_rows, buffers)

    tile = Tile(load, store, num_loads=1, is_transposed=transpose_rhs)
    out_types = [jax.ShapeDtypeStruct((lhs_MK.shape[0], out_width), out_dtype)]
    num_col_tiles = pl.cdiv(out_width, config.tile_n)
    return call(tile, num_col_tiles, out_types, lhs_MK, rhs, group_sizes_G, config, interpret)[0]


def call(tile: Tile, num_col_tiles, out_types, lhs_MK, rhs, group_sizes_G, config, interpret):
    """Runs the tiles of a product over the groups; outputs of out_types, all of one dtype."""
    num_rows, width = lhs_MK.shape
    table, num_tiles = schedule.of_matmul(
        group_sizes_G, num_rows, TILE_M, num_col_tiles, config.band
    )
    num_blocks = ring.num_blocks(interpret)
    body = functools.partial(
        _kernel,
        tile,
        config=config,
        num_blocks=num_blocks,
        num_steps=width // ring.STEP,
        interpret=interpret,
    )
    return plgpu.kernel(
        body,
        out_type=out_types,
        scratch_types=_scratch(lhs_MK.dtype, out_types[0].dtype, tile, config, interpret),
        kernel_name="grouped_matmul",
        grid=(num_blocks,),
        grid_names=("block",),
        **hopper.launch(interpret),
    )(table, num_tiles, lhs_MK, rhs)


def _scratch(dtype, out_dtype, tile, config, interpret):
    stages, step = config.num_stages, ring.STEP
    rhs_shape = (config.tile_n, step) if tile.is_transposed else (step, config.tile_n)
    return dict(
        lhs_smem=ring.rows((stages, TILE_M, step), dtype, interpret),
        rhs_smem=hopper.tiled((stages, *rhs_shape), dtype),
        out_smem=ring.stores(out_dtype, interpret),
        ready=plgpu.Barrier(num_arrivals=1 + tile.num_loads, num_barriers=stages),
        free=plgpu.Barrier(num_arrivals=hopper.COMPUTE, num_barriers=stages),
    )


class _Memory(NamedTuple):
    """Slots of both operands, and the buffers of each warpgroup's epilogue."""

    lhs: ring.Rows
    rhs: Any
    out: ring.Rows
    slots: hopper.Slots


def _memory(scratch, config, interpret) -> _Memory:
    lhs, out = (ring.views(scratch[name], interpret) for name in ("lhs_smem", "out_smem"))
    slots = hopper.Slots(scratch["ready"], scratch["free"], config.num_stages)
    return _Memory(lhs, scratch["rhs_smem"], out, slots)


def _kernel(
    tile, table, num_tiles, lhs, rhs, *outs, config, num_blocks, num_steps, interpret, **scratch
):
    block, warpgroup = lax.axis_index("block"), lax.axis_index("warpgroup")
    memory = _memory(scratch, config, interpret)

    work = ring.work_on_rows(
        block,
        table,
        num_tiles,
        num_blocks=num_blocks,
        num_groups=rhs.shape[0],
        num_steps=num_steps,
    )
    hopper.specialize(
        warpgroup,
        lambda warpgroup: _compute(tile, work, outs, warpgroup, config.tile_n, memory),
        lambda: _load(tile, work, lhs, rhs, memory),
    )


def _compute(tile, work, outs, warpgroup, tile_n, memory):
    own = pl.ds(warpgroup * hopper.ROWS, hopper.ROWS)
    buffers = ring.Rows(*(view.at[warpgroup] for view in memory.out))

    def product(acc, slot):
        rhs = memory.rhs.at[slot]
        plgpu.wgmma(acc, memory.lhs.tiled.at[slot, own], rhs.T if tile.is_transposed else rhs)

    def of_tile(at, first_step):
        row, num_rows, _, col, num_steps = at
        own_rows = num_rows - warpgroup * hopper.ROWS

        @pl.when(own_rows > 0)
        def _():
            def total(acc):
                ring.multiply(acc, first_step, num_steps, product, memory.slots)
                return acc[...]

            acc = pl.run_scoped(total, hopper.accumulator(hopper.ROWS, tile_n))
            tile.store(acc, outs, row + warpgroup * hopper.ROWS, col, own_rows, buffers)

        @pl.when(own_rows <= 0)
        def _():
            ring.skip(first_step, num_steps, memory.slots)

        return first_step + num_steps

    ring.over_tiles(work, of_tile, jnp.int32(0))
    plgpu.wait_smem_to_gmem(0)


def _load(tile, work, lhs, rhs, memory):
    slots = memory.slots

    def of_tile(at, first_step):
        row, _, group, col, num_steps = at
        lhs_rows = pl.ds(row, TILE_M)

        @pl.loop(0, num_steps)
        def _(step):
            slot = hopper.wait_for_slot(first_step + step, slots)
            depth = pl.ds(step * ring.STEP, ring.STEP)
            ready = slots.ready.at[slot]
            plgpu.copy_gmem_to_smem(lhs.at[lhs_rows, depth], memory.lhs.plain.at[slot], ready)
            tile.load(rhs, memory.rhs.at[slot], ready, group, col, depth)

        return first_step + num_steps

    hopper.drain(ring.over_tiles(work, of_tile, jnp.int32(0)), slots)
