"""Rows times their group's matrix on Hopper, both of E4M3 with a scale for each block of 128.

    out[m] = sum_i lhs_scale[m, i] rhs_scale[g(m), n, i] (lhs[m, i] . rhs[g(m), n, i])

i counts blocks of 128 contracted elements. The sums of wgmma keep about 14 bits, so each block's is
scaled and added to float32 registers (arXiv:2412.19437, sec. 3.3.2). wgmma reads FP8 along K only:
rhs is (G, N, K). Each of `num_compute` warpgroups has 64 rows of one group and all columns of a
tile. It multiplies a step in parts, whose products it adds up while others multiply: other
warpgroups, or with `in_flight` the next part of its own.

Where a block is as wide as K, sums stay in the tensor cores to the end and are scaled once.

Letters: M rows, G groups, K contracted width, N output width, I blocks of K. Shared memory of a
stage: 24 KB for 64 columns of three warpgroups and 8 for each 64 columns more.
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

STEP = 128  # contracted elements per stage: one block, and one swizzled tile of 8-bit elements
# Of a thread that multiplies; a multiprocessor has 512 for one thread of each warpgroup.
_REGISTERS = {2: 240, 3: 160}
_BY_ROW = plgpu.Layout.WGMMA.reduce(1)


@dataclasses.dataclass(frozen=True)
class Config:
    """Tuned choices.

    num_compute: warpgroups that multiply, two or three. tile_n: columns of a tile, a multiple of
    64. part_n: columns multiplied at once, which divide it, a multiple of 64. in_flight: parts
    whose products a warpgroup keeps beside its sums. num_stages: slots of the ring. band: that of
    `matmul.Config`.
    """

    num_compute: int = 3
    tile_n: int = 128
    part_n: int = 128
    in_flight: int = 1
    num_stages: int = 4
    band: int = 16

    @property
    def tile_m(self) -> int:
        """Rows of a tile."""
        return self.num_compute * hopper.ROWS

    @property
    def turn_n(self) -> int:
        """Columns whose products are in flight at once."""
        return self.part_n * self.in_flight

    @property
    def num_turns(self) -> int:
        """A step's turns. Each waits for its columns, though ptxas is why: in one stretch without a
        jump it gives each product registers of its own, and so spills.
        """
        return self.tile_n // self.turn_n

    @property
    def slice_n(self) -> int:
        """Columns that share a scale of rhs wherever a tile starts, and lie within a part."""
        return STEP if self.tile_n % STEP == self.part_n % STEP == 0 else hopper.ROWS


class Tile(NamedTuple):
    """What the plain product and one with more work on its result do differently.

    column(col, start) is where in rhs the columns from `start` on of tile `col` lie: start is a
    multiple of slice_n. store(sums, outs, place, buffers) writes a warpgroup's result, of which
    each slice is one of `sums`, to outs.
    """

    column: Callable
    store: Callable


class Place(NamedTuple):
    """Where a warpgroup's rows of a tile lie."""

    row: Any
    group: Any
    col: Any
    num_rows: Any


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
    num_rows, out_width = lhs_MK.shape[0], rhs_GNK.shape[1]
    assert out_width % config.tile_n == 0

    def column(col, start):
        return col * config.tile_n + start

    def store(sums, outs, place, buffers):
        width = buffers.tiled.shape[-1]
        chunks = [
            (
                lambda total=total, start=start: total[:, start : start + width],
                outs[0],
                column(place.col, i * config.slice_n + start),
            )
            for i, total in enumerate(sums)
            for start in range(0, config.slice_n, width)
        ]
        ring.store_chunks(chunks, place.row, place.num_rows, buffers)

    out_types = [jax.ShapeDtypeStruct((num_rows, out_width), out_dtype)]
    arrays = lhs_MK, scales_MI, rhs_GNK, rhs_scales_GNI, group_sizes_G
    tile, num_cols = Tile(column, store), out_width // config.tile_n
    return call(tile, num_cols, out_types, *arrays, config=config, interpret=interpret)[0]


def call(
    tile: Tile,
    num_col_tiles,
    out_types,
    lhs_MK,
    scales_MI,
    rhs_GNK,
    rhs_scales_GNI,
    group_sizes_G,
    *,
    config,
    interpret,
):
    """Runs the tiles of a product over the groups; a chunk of any output has the first's dtype."""
    num_rows, width = lhs_MK.shape
    table, num_tiles = schedule.of_matmul(
        group_sizes_G, num_rows, config.tile_m, num_col_tiles, config.band
    )
    # Along rows, and with some for a tile that ends beyond the last one.
    missing = num_rows + config.tile_m - scales_MI.shape[0]
    scales_IM = jnp.pad(scales_MI.T, ((0, 0), (0, missing)))
    num_blocks = ring.num_blocks(interpret)
    body = functools.partial(
        _kernel,
        tile,
        config=config,
        num_blocks=num_blocks,
        num_groups=rhs_GNK.shape[0],
        num_steps=width // STEP,
        interpret=interpret,
    )
    return plgpu.kernel(
        body,
        out_type=out_types,
        scratch_types=_scratch(lhs_MK.dtype, out_types[0].dtype, config, interpret),
        kernel_name="grouped_matmul_block_scaled",
        grid=(num_blocks,),
        grid_names=("block",),
        **hopper.launch(interpret, num_compute=config.num_compute),
    )(table, num_tiles, lhs_MK, scales_IM, rhs_GNK, rhs_scales_GNI)


def _scratch(dtype, out_dtype, config, interpret):
    stages = config.num_stages
    return dict(
        lhs_smem=ring.rows((stages, config.tile_m, STEP), dtype, interpret),
        rhs_smem=hopper.tiled((stages, config.tile_n, STEP), dtype),
        out_smem=ring.stores(out_dtype, interpret, config.num_compute),
        ready=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        free=plgpu.Barrier(num_arrivals=config.num_compute, num_barriers=stages),
        later=plgpu.Barrier(num_arrivals=1, num_barriers=max(1, stages * (config.num_turns - 1))),
    )


class _Memory(NamedTuple):
    """Slots of both operands, the scales, and the buffers of each warpgroup's epilogue."""

    lhs: ring.Rows
    rhs: Any
    lhs_scales: Any
    rhs_scales: Any
    out: ring.Rows
    slots: hopper.Slots
    later: Any  # barriers of what a step loads for its turns after the first


def _kernel(
    tile,
    table,
    num_tiles,
    lhs,
    lhs_scales,
    rhs,
    rhs_scales,
    *outs,
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
    arrays = lhs_smem, scratch["rhs_smem"], lhs_scales, rhs_scales, out_smem
    memory = _Memory(*arrays, slots, scratch["later"])

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
        lambda warpgroup: _compute(tile, work, outs, warpgroup, memory, config),
        lambda: _load(tile, work, lhs, rhs, memory, config),
        compute_registers=_REGISTERS[config.num_compute],
        num_compute=config.num_compute,
    )


class _Work(NamedTuple):
    """A warpgroup's part of a tile, and the steps of the ring that bring it."""

    warpgroup: Any
    row: Any
    group: Any
    columns: list  # of rhs, where each slice begins
    first_step: Any
    num_steps: Any


def _compute(tile, work, outs, warpgroup, memory, config):
    buffers = ring.Rows(*(view.at[warpgroup] for view in memory.out))

    def of_tile(at, first_step):
        row, num_rows, group, col, num_steps = at
        own_row, own_rows = row + warpgroup * hopper.ROWS, num_rows - warpgroup * hopper.ROWS
        columns = [tile.column(col, start) for start in range(0, config.tile_n, config.slice_n)]
        own = _Work(warpgroup, own_row, group, columns, first_step, num_steps)

        @pl.when(own_rows > 0)
        def _():
            has_blocks = memory.lhs_scales.shape[0] > 1
            sums = (_scaled_sums if has_blocks else _sums_scaled)(memory, config, own)
            tile.store(sums, outs, Place(own_row, group, col, own_rows), buffers)

        @pl.when(own_rows <= 0)
        def _():
            _skip(memory, config, first_step, num_steps)

        return first_step + num_steps

    ring.over_tiles(work, of_tile, jnp.int32(0))
    plgpu.wait_smem_to_gmem(0)


def _skip(memory, config, first_step, num_steps):
    """Frees the slots of the steps unread, for a warpgroup that has no rows."""

    @pl.loop(0, num_steps)
    def _(i):
        slot = hopper.slot_of(first_step + i, memory.slots.num_stages)
        for turn in range(config.num_turns):
            plgpu.barrier_wait(_landed(memory, config, slot, turn))
        plgpu.barrier_arrive(memory.slots.free.at[slot])


def _scaled_sums(memory, config, work):
    """The sums of each slice of a tile's columns (64, slice_n): a block is scaled, then added."""
    zeros = jnp.zeros((hopper.ROWS, config.slice_n), jnp.float32)
    totals = [plgpu.layout_cast(zeros, plgpu.Layout.WGMMA)] * (config.tile_n // config.slice_n)
    add = functools.partial(_add_step, memory, config, work)
    return lax.fori_loop(0, work.num_steps, add, tuple(totals))


def _add_step(memory, config, work, i, totals):
    """totals plus the scaled products of the i-th block of a tile."""
    slots, slice_n = memory.slots, config.slice_n
    slot = hopper.slot_of(work.first_step + i, slots.num_stages)
    scales = _load_scales(memory, config, work, i)  # these arrive during the waits
    num_slices = config.part_n // slice_n

    def add_parts(first, *accs):
        added = []
        for part, acc in enumerate(accs, first):
            _multiply(memory, config, work, slot, part, acc)
        for part, acc in enumerate(accs, first):
            product = plgpu.wgmma_accumulator_load(acc, wait_n=first + len(accs) - 1 - part)
            if part == num_parts - 1:
                plgpu.barrier_arrive(slots.free.at[slot])
            for k in range(num_slices):
                own = product[:, k * slice_n : (k + 1) * slice_n] if num_slices > 1 else product
                nth = part * num_slices + k
                added.append(totals[nth] + _scaled(own, scales, nth))
        return tuple(added)

    added, num_parts = [], config.tile_n // config.part_n
    for turn in range(config.num_turns):
        plgpu.barrier_wait(_landed(memory, config, slot, turn))
        accs = [hopper.accumulator(hopper.ROWS, config.part_n)] * config.in_flight
        added += pl.run_scoped(functools.partial(add_parts, turn * config.in_flight), *accs)
    return tuple(added)


def _landed(memory, config, slot, turn):
    """The barrier that opens when the columns of a turn are there."""
    if turn == 0:
        return memory.slots.ready.at[slot]
    return memory.later.at[slot * (config.num_turns - 1) + turn - 1]


def _multiply(memory, config, work, slot, part, acc):
    own = pl.ds(work.warpgroup * hopper.ROWS, hopper.ROWS)
    rhs = memory.rhs.at[slot, pl.ds(part * config.part_n, config.part_n)]
    plgpu.wgmma(acc, memory.lhs.tiled.at[slot, own], rhs.T)


class _Scales(NamedTuple):
    """Factors of a block: those of a warpgroup's rows (64,), and one for each slice of columns."""

    by_row: Any
    by_slice: list


def _load_scales(memory, config, work, i) -> _Scales:
    own = memory.lhs_scales.at[i, pl.ds(work.row, hopper.ROWS)]
    blocks = [lax.div(column, jnp.int32(STEP)) for column in work.columns]
    by_slice = [memory.rhs_scales[work.group, block, i] for block in blocks]
    return _Scales(plgpu.load(own, layout=_BY_ROW, optimized=False), by_slice)


def _scaled(product, scales: _Scales, nth):
    factors = scales.by_row * scales.by_slice[nth]
    return product * lax.broadcast_in_dim(factors, product.shape, (0,))


def _sums_scaled(memory, config, work):
    """The same where one block is as wide as K."""
    parts = range(config.tile_n // config.part_n)

    def product(accs, slot):
        for turn in range(1, config.num_turns):
            plgpu.barrier_wait(_landed(memory, config, slot, turn))
        for part in parts:
            _multiply(memory, config, work, slot, part, accs[part])

    def sums(*accs):
        ring.multiply(accs, work.first_step, work.num_steps, product, memory.slots)
        return tuple(acc[...] for acc in accs)

    accs = [hopper.accumulator(hopper.ROWS, config.part_n)] * len(parts)
    whole = pl.run_scoped(sums, *accs)
    # Rows beyond the groups, whose sums are 0, have no matrix.
    is_in_group = work._replace(group=jnp.minimum(work.group, memory.rhs_scales.shape[0] - 1))
    scales, slice_n = _load_scales(memory, config, is_in_group, 0), config.slice_n
    slices = [
        total[:, start : start + slice_n]
        for total in whole
        for start in range(0, config.part_n, slice_n)
    ]
    return [_scaled(product, scales, nth) for nth, product in enumerate(slices)]


def _load(tile, work, lhs, rhs, memory, config):
    slots = memory.slots

    def of_tile(at, first_step):
        row, _, group, col, num_steps = at
        rows = pl.ds(row, config.tile_m)

        @pl.loop(0, num_steps)
        def _(step):
            slot = hopper.wait_for_slot(first_step + step, slots)
            depth = pl.ds(step * STEP, STEP)
            lhs_smem, ready = memory.lhs.plain.at[slot], slots.ready.at[slot]
            plgpu.copy_gmem_to_smem(lhs.at[rows, depth], lhs_smem, ready)
            for turn in range(config.num_turns):
                start = turn * config.turn_n
                cols = pl.ds(tile.column(col, start), config.turn_n)
                rhs_smem = memory.rhs.at[slot, pl.ds(start, config.turn_n)]
                landed = _landed(memory, config, slot, turn)
                plgpu.copy_gmem_to_smem(rhs.at[group, cols, depth], rhs_smem, landed)

        return first_step + num_steps

    hopper.drain(ring.over_tiles(work, of_tile, jnp.int32(0)), slots)
