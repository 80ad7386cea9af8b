"""Rows times their group's matrix on Hopper, both of E4M3 with a scale for each block of 128.

    out[m] = sum_i lhs_scale[m, i] rhs_scale[g(m), n, i] (lhs[m, i] . rhs[g(m), n, i])

i counts blocks of 128 contracted elements. The sums of wgmma keep about 14 bits, so each block's is
scaled and added to float32 registers (arXiv:2412.19437, sec. 3.3.2). wgmma reads FP8 along K only:
rhs is (G, N, K). A tile is 192 rows of one group by 128 columns: three warpgroups multiply, and
while one of them adds up the others' products run. A step of 128 loads 40 KB for 6.3 MFLOP: 154
FLOP per byte from L2.

Letters: M rows, G groups, K contracted width, N output width, I = K / 128. Shared memory, 4 stages:
lhs 96 KB, rhs 64, out 48.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper
from pallas_kernels.grouped_matmul.gpu import ring, schedule

COMPUTE = 3  # warpgroups that multiply
TILE_M = COMPUTE * hopper.ROWS
TILE_N = 128  # columns of a tile, which so meet one block of rhs
STEP = 128  # contracted elements per stage: one block, and one swizzled tile of 8-bit elements
_REGISTERS = 160  # of a thread that multiplies: 64 of a product, 64 of the sum
_BY_ROW = plgpu.Layout.WGMMA.reduce(1)


@dataclasses.dataclass(frozen=True)
class Config:
    """Tuned choices: slots of the ring, and the `band` of `matmul.Config`."""

    num_stages: int = 4
    band: int = 16


def matmul(
    lhs_MK,
    scales_MI,
    rhs_GNK,
    rhs_scales_GNI,
    group_sizes_G,
    *,
    out_dtype,
    config: Config,
    interpret: bool,
):
    """The product (M, N) of 16-bit out_dtype; M is a multiple of 8, K and N of 128.

    scales (M or fewer, K / 128) and rhs_scales (G, N / 128, K / 128) are float32.
    """
    num_rows, width = lhs_MK.shape
    num_groups, out_width, _ = rhs_GNK.shape
    table, num_tiles = schedule.of_matmul(
        group_sizes_G, num_rows, TILE_M, out_width // TILE_N, config.band
    )
    # Along rows, and with some for a tile that ends beyond the last one.
    scales_IM = jnp.pad(scales_MI.T, ((0, 0), (0, num_rows + TILE_M - scales_MI.shape[0])))
    num_blocks = ring.num_blocks(interpret)
    body = functools.partial(
        _kernel,
        config=config,
        num_blocks=num_blocks,
        num_groups=num_groups,
        num_steps=width // STEP,
        interpret=interpret,
    )
    return plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((num_rows, out_width), out_dtype),
        scratch_types=_scratch(lhs_MK.dtype, out_dtype, config, interpret),
        kernel_name="grouped_matmul_block_scaled",
        grid=(num_blocks,),
        grid_names=("block",),
        **hopper.launch(interpret, num_compute=COMPUTE),
    )(table, num_tiles, lhs_MK, scales_IM, rhs_GNK, rhs_scales_GNI)


def _scratch(dtype, out_dtype, config, interpret):
    stages = config.num_stages
    return dict(
        lhs_smem=ring.rows((stages, TILE_M, STEP), dtype, interpret),
        rhs_smem=hopper.tiled((stages, TILE_N, STEP), dtype),
        out_smem=ring.stores(out_dtype, interpret, COMPUTE),
        ready=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        free=plgpu.Barrier(num_arrivals=COMPUTE, num_barriers=stages),
    )


class _Memory(NamedTuple):
    """Slots of both operands, the scales, and the buffers of each warpgroup's epilogue."""

    lhs: ring.Rows
    rhs: Any
    lhs_scales: Any
    rhs_scales: Any
    out: ring.Rows
    slots: hopper.Slots


def _kernel(
    table,
    num_tiles,
    lhs,
    lhs_scales,
    rhs,
    rhs_scales,
    out,
    *,
    config,
    num_blocks,
    num_groups,
    num_steps,
    interpret,
    **scratch,
):
    block, warpgroup = lax.axis_index("block"), lax.axis_index("warpgroup")
    lhs_smem, out_smem = (ring.views(scratch[name], interpret) for name in ("lhs_smem", "out_smem"))
    slots = hopper.Slots(scratch["ready"], scratch["free"], config.num_stages)
    memory = _Memory(lhs_smem, scratch["rhs_smem"], lhs_scales, rhs_scales, out_smem, slots)

    work = ring.work_on_rows(
        block,
        table,
        num_tiles,
        num_blocks=num_blocks,
        num_groups=num_groups,
        num_steps=num_steps,
    )
    hopper.specialize(
        warpgroup,
        lambda warpgroup: _compute(work, out, warpgroup, memory),
        lambda: _load(work, lhs, rhs, memory),
        compute_registers=_REGISTERS,
        num_compute=COMPUTE,
    )


def _compute(work, out, warpgroup, memory):
    buffers = ring.Rows(*(view.at[warpgroup] for view in memory.out))

    def of_tile(at, first_step):
        row, num_rows, group, col, num_steps = at
        own_row, own_rows = row + warpgroup * hopper.ROWS, num_rows - warpgroup * hopper.ROWS

        @pl.when(own_rows > 0)
        def _():
            add = functools.partial(_add_step, memory, warpgroup, own_row, group, col, first_step)
            zeros = jnp.zeros((hopper.ROWS, TILE_N), jnp.float32)
            total = lax.fori_loop(0, num_steps, add, plgpu.layout_cast(zeros, plgpu.Layout.WGMMA))
            ring.store(total, out, own_row, col * TILE_N, own_rows, buffers)

        @pl.when(own_rows <= 0)
        def _():
            ring.skip(first_step, num_steps, memory.slots)

        return first_step + num_steps

    ring.over_tiles(work, of_tile, jnp.int32(0))
    plgpu.wait_smem_to_gmem(0)


def _add_step(memory, warpgroup, row, group, col, first_step, i, total):
    """total (64, N) plus the scaled product of the i-th block of a tile."""
    slots = memory.slots
    slot = hopper.slot_of(first_step + i, slots.num_stages)
    own = pl.ds(warpgroup * hopper.ROWS, hopper.ROWS)
    plgpu.barrier_wait(slots.ready.at[slot])

    def multiply(acc):
        plgpu.wgmma(acc, memory.lhs.tiled.at[slot, own], memory.rhs.at[slot].T)
        plgpu.wgmma_wait(0)
        return acc[...]

    product = pl.run_scoped(multiply, hopper.accumulator(hopper.ROWS, TILE_N))
    plgpu.barrier_arrive(slots.free.at[slot])
    own_scales = memory.lhs_scales.at[i, pl.ds(row, hopper.ROWS)]
    scale = plgpu.load(own_scales, layout=_BY_ROW, optimized=False)
    scale = scale * memory.rhs_scales[group, col, i]
    return total + product * lax.broadcast_in_dim(scale, product.shape, (0,))


def _load(work, lhs, rhs, memory):
    slots = memory.slots

    def of_tile(at, first_step):
        row, _, group, col, num_steps = at
        rows, cols = pl.ds(row, TILE_M), pl.ds(col * TILE_N, TILE_N)

        @pl.loop(0, num_steps)
        def _(step):
            slot = hopper.wait_for_slot(first_step + step, slots)
            depth, ready = pl.ds(step * STEP, STEP), slots.ready.at[slot]
            plgpu.copy_gmem_to_smem(lhs.at[rows, depth], memory.lhs.plain.at[slot], ready)
            plgpu.copy_gmem_to_smem(rhs.at[group, cols, depth], memory.rhs.at[slot], ready)

        return first_step + num_steps

    hopper.drain(ring.over_tiles(work, of_tile, jnp.int32(0)), slots)
