"""Rows times their group's matrix on Hopper: a tile is 128 rows of one group by `tile_n` columns.

    out[m] = lhs[m] @ rhs[g(m)]

A tile whose second half has no rows keeps one warpgroup idle, so a group costs its rows rounded up
to 64. With tile_n = 256 a step of 64 loads 48 KB for 4.2 MFLOP: 87 FLOP per byte from L2.

Letters: M rows, G groups, K contracted width, N output width. Shared memory, tile_n = 256, 4
stages: lhs 64 KB, rhs 128, out 32.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.grouped_matmul import mosaic_gpu_ring as ring
from pallas_kernels.grouped_matmul import mosaic_gpu_schedule as schedule

TILE_M = ring.COMPUTE * ring.ROWS


@dataclasses.dataclass(frozen=True)
class Config:
    """Tuned choices.

    tile_n: columns of a tile, a multiple of 128. num_stages: slots of the ring. band: tiles of
    rows that one slice of a group's matrix meets before the next slice.
    """

    tile_n: int = 256
    num_stages: int = 4
    band: int = 16


def matmul(lhs_MK, rhs, group_sizes_G, *, transpose_rhs: bool, out_dtype, config, interpret: bool):
    """The product of lhs, whose M is a multiple of 8, with rhs (G, K, N) or (G, N, K)."""
    num_rows, width = lhs_MK.shape
    out_width = rhs.shape[1 if transpose_rhs else 2]
    table, num_items = schedule.of_matmul(
        group_sizes_G, num_rows, TILE_M, pl.cdiv(out_width, config.tile_n), config.band
    )
    num_blocks = ring.num_blocks(interpret)
    body = functools.partial(
        _kernel,
        transpose_rhs=transpose_rhs,
        config=config,
        num_blocks=num_blocks,
        num_steps=width // ring.STEP,
        interpret=interpret,
    )
    return plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((num_rows, out_width), out_dtype),
        scratch_types=_scratch(lhs_MK.dtype, out_dtype, transpose_rhs, config, interpret),
        kernel_name="grouped_matmul",
        **ring.launch(num_blocks, 1 + ring.COMPUTE, interpret),
    )(table, num_items, lhs_MK, rhs)


def _scratch(dtype, out_dtype, transpose_rhs, config, interpret):
    stages, step = config.num_stages, ring.STEP
    rhs_shape = (config.tile_n, step) if transpose_rhs else (step, config.tile_n)
    return dict(
        lhs_smem=ring.rows((stages, TILE_M, step), dtype, interpret),
        rhs_smem=ring.tiled((stages, *rhs_shape), dtype),
        out_smem=ring.stores(out_dtype, interpret),
        ready=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        free=plgpu.Barrier(num_arrivals=ring.COMPUTE, num_barriers=stages),
    )


def _kernel(table, num_items, lhs, rhs, out, *, transpose_rhs, config, num_blocks, num_steps,
            interpret, lhs_smem, out_smem, **scratch):  # fmt: skip
    block, warpgroup = lax.axis_index("block"), lax.axis_index("warpgroup")
    num_groups = rhs.shape[0]
    count = lax.div(num_items[0] - block + (num_blocks - 1), jnp.int32(num_blocks))
    lhs_smem, out_smem = ring.views(lhs_smem, interpret), ring.views(out_smem, interpret)
    slots = dict(ready=scratch["ready"], free=scratch["free"], num_stages=config.num_stages)

    def tile(i):
        """The item, and its steps per column: rows beyond the groups take none."""
        index = jnp.minimum(block + i * num_blocks, table.shape[0] - 1)
        item = [table[index, j] for j in range(table.shape[1])]
        return *item, jnp.where(item[schedule.GROUP] < num_groups, num_steps, 0)

    @pl.when(warpgroup < ring.COMPUTE)
    def _():
        plgpu.set_max_registers(240, action="increase")
        _compute(tile, count, out, warpgroup, transpose_rhs, config,
                 lhs_smem=lhs_smem.tiled, rhs_smem=scratch["rhs_smem"], out_smem=out_smem,
                 slots=slots)  # fmt: skip

    @pl.when(warpgroup == ring.COMPUTE)
    def _():
        plgpu.set_max_registers(24, action="decrease")
        _load(tile, count, lhs, rhs, transpose_rhs, config,
              lhs_smem=lhs_smem.plain, rhs_smem=scratch["rhs_smem"], **slots)  # fmt: skip


def _compute(tile, count, out, warpgroup, transpose_rhs, config, *, lhs_smem, rhs_smem, out_smem,
             slots):  # fmt: skip
    own = pl.ds(warpgroup * ring.ROWS, ring.ROWS)
    buffers = ring.Rows(*(view.at[warpgroup] for view in out_smem))

    def product(acc, slot):
        rhs = rhs_smem.at[slot]
        plgpu.wgmma(acc, lhs_smem.at[slot, own], rhs.T if transpose_rhs else rhs)

    def of_tile(place, first_step):
        row, num_rows, _, col, num_cols, num_steps = place
        own_row, own_rows = row + warpgroup * ring.ROWS, num_rows - warpgroup * ring.ROWS

        @pl.when(own_rows > 0)
        def _():
            @pl.loop(0, num_cols)
            def _(i):
                def total(acc):
                    ring.multiply(acc, first_step + i * num_steps, num_steps, product, **slots)
                    return acc[...]

                acc = pl.run_scoped(total, ring.accumulator(config.tile_n))
                ring.store(acc, out, own_row, (col + i) * config.tile_n, own_rows, buffers)

        @pl.when(own_rows <= 0)
        def _():
            ring.skip(first_step, num_cols * num_steps, **slots)

        return first_step + num_cols * num_steps

    ring.over_tiles(tile, count, of_tile, jnp.int32(0))
    plgpu.wait_smem_to_gmem(0)


def _load(tile, count, lhs, rhs, transpose_rhs, config, *, lhs_smem, rhs_smem, ready, free,
          num_stages):  # fmt: skip
    def of_tile(place, first_step):
        row, _, group, col, num_cols, num_steps = place
        lhs_rows = pl.ds(row, TILE_M)

        @pl.loop(0, num_cols * num_steps)
        def _(step):
            slot = ring.wait_for_slot(first_step + step, free, num_stages)
            nth = (step >= num_steps).astype(jnp.int32)
            cols = pl.ds((col + nth) * config.tile_n, config.tile_n)
            depth = pl.ds((step - nth * num_steps) * ring.STEP, ring.STEP)
            rhs_part = rhs.at[group, cols, depth] if transpose_rhs else rhs.at[group, depth, cols]
            plgpu.copy_gmem_to_smem(lhs.at[lhs_rows, depth], lhs_smem.at[slot], ready.at[slot])
            plgpu.copy_gmem_to_smem(rhs_part, rhs_smem.at[slot], ready.at[slot])

        return first_step + num_cols * num_steps

    total = ring.over_tiles(tile, count, of_tile, jnp.int32(0))
    ring.drain(total, free, num_stages)
