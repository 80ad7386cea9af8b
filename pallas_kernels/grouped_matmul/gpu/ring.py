"""What the Hopper kernels of grouped products share: buffers at any row, the ring, the epilogue.

Two warpgroups multiply, each into 64 rows of float32 registers, and store through shared memory by
TMA. Blocks are persistent and take every num_blocks-th item; the ring runs on across tiles, so that
the next tile's operands arrive during the epilogue.

A swizzled tile of 8 rows of 128 bytes lies in memory as 8 rows, one after the other. So where a
buffer is one such tile wide, TMA may also take it as plain rows: it can then start at any row, as
a group does, and stop at any row. `Rows` holds the two views of such a buffer.
"""
# Pallas leaves its transforms abstract.
# pyright: reportAbstractUsage=false

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper
from pallas_kernels.grouped_matmul.gpu import schedule

STEP = 64  # contracted elements per stage: one swizzled tile of 16-bit elements
_STORES = 2  # buffers of a warpgroup's epilogue


class Rows(NamedTuple):
    """A buffer for wgmma and registers, and the same memory for TMA at any row."""

    tiled: Any
    plain: Any


def rows(shape, dtype, interpret: bool):
    """Scratch for `views`; interpret mode, which knows no swizzle, has no unions either."""
    if interpret:
        return plgpu.SMEM(shape, dtype)
    plain = plgpu.SMEM(shape, dtype, transforms=(hopper.SWIZZLE,))
    return plgpu.RefUnion(hopper.tiled(shape, dtype), plain)


def views(scratch, interpret: bool) -> Rows:
    """The two views of what `rows` allocated."""
    return Rows(scratch, scratch) if interpret else Rows(*scratch)


def stores(dtype, interpret: bool, num_compute: int = hopper.COMPUTE):
    """Scratch of `store`: 16 KB per warpgroup."""
    shape = num_compute, _STORES, hopper.ROWS, hopper.tile_cols(dtype)
    return rows(shape, dtype, interpret)


class Work(NamedTuple):
    """The tiles of a block: place(i) says where the i-th of `count` lies."""

    place: Callable
    count: Any


def work_on_rows(block, table, num_tiles, *, num_blocks, num_groups, num_steps) -> Work:
    """A block's part of `schedule.of_matmul`, with the same number of steps for every tile."""
    count = lax.div(num_tiles[0] - block + (num_blocks - 1), jnp.int32(num_blocks))

    def place(i):
        """(row, rows, group, column tile, steps): rows beyond the groups take no steps."""
        index = jnp.minimum(block + i * num_blocks, table.shape[0] - 1)
        columns = [table[index, j] for j in range(table.shape[1])]
        return *columns, jnp.where(columns[schedule.GROUP] < num_groups, num_steps, 0)

    return Work(place, count)


def multiply(acc, first_step, num_steps, product, slots: hopper.Slots):
    """Adds product(acc, slot) over the steps; a slot is freed once the next product is issued."""

    @pl.loop(0, num_steps)
    def _(i):
        step = first_step + i
        slot = hopper.slot_of(step, slots.num_stages)
        plgpu.barrier_wait(slots.ready.at[slot])
        product(acc, slot)
        plgpu.wgmma_wait(1)

        @pl.when(i > 0)
        def _():
            plgpu.barrier_arrive(slots.free.at[hopper.slot_of(step - 1, slots.num_stages)])

    plgpu.wgmma_wait(0)

    @pl.when(num_steps > 0)
    def _():
        last = first_step + num_steps - 1
        plgpu.barrier_arrive(slots.free.at[hopper.slot_of(last, slots.num_stages)])


def skip(first_step, num_steps, slots: hopper.Slots):
    """Frees the slots of the steps unread, for a warpgroup that has no rows."""

    @pl.loop(0, num_steps)
    def _(i):
        slot = hopper.slot_of(first_step + i, slots.num_stages)
        plgpu.barrier_wait(slots.ready.at[slot])
        plgpu.barrier_arrive(slots.free.at[slot])


def over_tiles(work: Work, of_tile: Callable, carry):
    """Folds carry = of_tile(place, carry), reading a tile's place while another one runs."""

    def step(i, state):
        now, carry = state
        return work.place(jnp.minimum(i + 1, work.count - 1)), of_tile(now, carry)

    return lax.fori_loop(0, work.count, step, (work.place(0), carry))[1]


def store(acc, out, row, col, num_rows, buffers: Rows):
    """Writes the first num_rows rows of acc (64, N) to out at (row, col), by TMA."""
    width = buffers.tiled.shape[-1]
    starts = range(0, acc.shape[1], width)
    chunks = [(lambda i=i: acc[:, i : i + width], out, col + i) for i in starts]
    store_chunks(chunks, row, num_rows, buffers)


def store_chunks(chunks, row, num_rows, buffers: Rows):
    """Writes the first num_rows rows of each chunk (function that returns it, output, column).

    A chunk is as wide as a buffer. Returns before the last chunks have left shared memory.
    """
    # A tile of an odd number of chunks ends with the buffer that the next one begins with.
    pending = _STORES - 1 if len(chunks) % _STORES == 0 else 0
    for i, (chunk, out, col) in enumerate(chunks):
        buffer = Rows(*(view.at[i % _STORES] for view in buffers))
        plgpu.wait_smem_to_gmem(pending if i == 0 else _STORES - 1, wait_read_only=True)
        buffer.tiled[...] = chunk().astype(buffer.tiled.dtype)
        plgpu.commit_smem()
        _copy_rows(buffer.plain, out, row, col, num_rows)
        plgpu.commit_smem_to_gmem_group()


def _copy_rows(buffer, out, row, col, num_rows):
    """TMA copies of fixed sizes that add up to num_rows of 64 rows."""

    def copy(start, size):
        target = out.at[pl.ds(row + start, size), pl.ds(col, buffer.shape[1])]
        plgpu.copy_smem_to_gmem(buffer.at[pl.ds(start, size)], target, commit_group=False)

    @pl.when(num_rows >= hopper.ROWS)
    def _():
        copy(0, hopper.ROWS)

    @pl.when(num_rows < hopper.ROWS)
    def _():
        for size in (32, 16, 8, 4, 2, 1):

            @pl.when((num_rows & size) != 0)
            def _(size=size):
                copy(num_rows & (hopper.ROWS - 2 * size), size)


def num_blocks(interpret: bool) -> int:
    """One block per multiprocessor: 132 on an H100, also where there is no GPU."""
    return 3 if interpret else getattr(jax.devices()[0], "core_count", 132)
