"""Rows times their group's matrix on Hopper, both of E4M3 with a scale for each block of 128.

    out[m] = sum_i lhs_scale[m, i] rhs_scale[g(m), n, i] (lhs[m, i] . rhs[g(m), n, i])

i counts blocks of 128 contracted elements. wgmma reads FP8 along K only: rhs is (G, N, K). Each of
`num_compute` warpgroups has 64 rows of one group and all columns of a tile; `scaled_ring` loads
them and `scaled_sums` adds up their products.

Letters: M rows, G groups, K contracted width, N output width, I blocks of K.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper
from pallas_kernels.grouped_matmul.gpu import ring, scaled_ring, scaled_sums, schedule
from pallas_kernels.grouped_matmul.gpu.scaled_ring import STEP, Config

# Registers of a multiplying thread; a multiprocessor has 512 for one thread of each warpgroup.
_REGISTERS = {2: 240, 3: 160}


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

    scales (M or fewer, I) and rhs_scales (G, N / 128, I) are float32; I is K / 128 or 1.
    """
    (num_rows, width), out_width = lhs_MK.shape, rhs_GNK.shape[1]
    assert out_width % config.tile_n == 0
    num_col_tiles = out_width // config.tile_n
    table, num_tiles = schedule.of_matmul(
        group_sizes_G, num_rows, config.tile_m, num_col_tiles, config.band
    )
    # Rows along the last axis, padded for a tile that ends beyond the last row.
    missing = num_rows + config.tile_m - scales_MI.shape[0]
    scales_IM = jnp.pad(scales_MI.T, ((0, 0), (0, missing)))
    num_blocks = ring.num_blocks(interpret)
    body = functools.partial(
        _kernel,
        config=config,
        num_blocks=num_blocks,
        num_groups=rhs_GNK.shape[0],
        num_steps=width // STEP,
        interpret=interpret,
    )
    return plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((num_rows, out_width), out_dtype),
        scratch_types=scaled_ring.scratch(lhs_MK.dtype, out_dtype, config, interpret),
        kernel_name="grouped_matmul_block_scaled",
        grid=(num_blocks,),
        grid_names=("block",),
        **hopper.launch(interpret, num_compute=config.num_compute),
    )(table, num_tiles, lhs_MK, scales_IM, rhs_GNK, rhs_scales_GNI)


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
    memory = scaled_ring.memory_of(scratch, config, interpret)
    buffers = ring.views(scratch["out_smem"], interpret)
    scales = scaled_sums.Scales(lhs_scales, rhs_scales)
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
        lambda warpgroup: _compute(work, out, warpgroup, memory, scales, buffers, config),
        lambda: scaled_ring.load(work, lhs, rhs, memory, config),
        compute_registers=_REGISTERS[config.num_compute],
        num_compute=config.num_compute,
    )


def _compute(work, out, warpgroup, memory, scales, buffers, config):
    buffers = ring.Rows(*(view.at[warpgroup] for view in buffers))
    add_up = scaled_sums.of_blocks if scales.has_blocks else scaled_sums.of_whole_rows

    def of_tile(at, first_step):
        row, num_rows, group, col, num_steps = at
        own_row, own_rows = row + warpgroup * hopper.ROWS, num_rows - warpgroup * hopper.ROWS
        columns = [col * config.tile_n + start for start in range(0, config.tile_n, STEP)]
        own = scaled_sums.Work(warpgroup, own_row, group, columns, first_step, num_steps)

        @pl.when(own_rows > 0)
        def _():
            sums = add_up(memory, scales, config, own)
            width = buffers.tiled.shape[-1]
            chunks = [
                (lambda total=total, start=start: total[:, start : start + width], out, at + start)
                for at, total in zip(columns, sums, strict=True)
                for start in range(0, STEP, width)
            ]
            ring.store_chunks(chunks, own_row, own_rows, buffers)

        @pl.when(own_rows <= 0)
        def _():
            scaled_ring.skip(memory, config, first_step, num_steps)

        return first_step + num_steps

    ring.over_tiles(work, of_tile, jnp.int32(0))
    plgpu.wait_smem_to_gmem(0)
