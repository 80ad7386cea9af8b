"""The ring that brings the tiles of an FP8 product to the warpgroups that multiply.

A step is 128 contracted elements: one block of scales, and one swizzled tile of 8-bit elements. Its
columns land in turns, and a warpgroup multiplies those of a turn at once.

Letters: M rows, K contracted width, N output width. Shared memory of a stage: 8 KB for each
warpgroup and 16 KB for each 128 columns.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper
from pallas_kernels.grouped_matmul.gpu import ring

STEP = 128


@dataclasses.dataclass(frozen=True)
class Config:
    """Tuned choices; the default is the fastest of those that were timed on an H200.

    num_compute: warpgroups that multiply, two or three. tile_n: columns of a tile. part_n: columns
    of a turn, a divisor of tile_n; both are multiples of 128. num_stages: slots of the ring. band:
    as in `matmul.Config`.
    """

    num_compute: int = 3
    tile_n: int = STEP
    part_n: int = STEP
    num_stages: int = 4
    band: int = 16

    @property
    def tile_m(self) -> int:
        """Rows of a tile."""
        return self.num_compute * hopper.ROWS

    @property
    def num_turns(self) -> int:
        """A step's turns. Each waits for its columns, but ptxas is the reason for turns: in one
        stretch without a jump it gives each product registers of its own, and so spills.
        """
        return self.tile_n // self.part_n


class Memory(NamedTuple):
    """Slots of both operands."""

    lhs: ring.Rows
    rhs: Any
    slots: hopper.Slots
    later: Any  # barriers of a step's loads for its turns after the first


def scratch(dtype, out_dtype, config: Config, interpret: bool):
    """What `memory_of` reads, and the buffers of each warpgroup's epilogue."""
    stages = config.num_stages
    return dict(
        lhs_smem=ring.rows((stages, config.tile_m, STEP), dtype, interpret),
        rhs_smem=hopper.tiled((stages, config.tile_n, STEP), dtype),
        out_smem=ring.stores(out_dtype, interpret, config.num_compute),
        ready=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        free=plgpu.Barrier(num_arrivals=config.num_compute, num_barriers=stages),
        later=plgpu.Barrier(num_arrivals=1, num_barriers=max(1, stages * (config.num_turns - 1))),
    )


def memory_of(scratch, config: Config, interpret: bool) -> Memory:
    """The views of what `scratch` allocated."""
    slots = hopper.Slots(scratch["ready"], scratch["free"], config.num_stages)
    lhs = ring.views(scratch["lhs_smem"], interpret)
    return Memory(lhs, scratch["rhs_smem"], slots, scratch["later"])


def landed(memory: Memory, config: Config, slot, turn: int):
    """The barrier that opens when the columns of a turn are there."""
    if turn == 0:
        return memory.slots.ready.at[slot]
    return memory.later.at[slot * (config.num_turns - 1) + turn - 1]


def skip(memory: Memory, config: Config, first_step, num_steps):
    """Frees the slots of the steps unread, for a warpgroup that has no rows."""

    @pl.loop(0, num_steps)
    def _(i):
        slot = hopper.slot_of(first_step + i, memory.slots.num_stages)
        for turn in range(config.num_turns):
            plgpu.barrier_wait(landed(memory, config, slot, turn))
        plgpu.barrier_arrive(memory.slots.free.at[slot])


def load(work: ring.Work, lhs, rhs, memory: Memory, config: Config):
    """Fills the slots, tile by tile."""
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
                start = turn * config.part_n
                cols = pl.ds(col * config.tile_n + start, config.part_n)
                rhs_smem = memory.rhs.at[slot, pl.ds(start, config.part_n)]
                opens = landed(memory, config, slot, turn)
                plgpu.copy_gmem_to_smem(rhs.at[group, cols, depth], rhs_smem, opens)

        return first_step + num_steps

    hopper.drain(ring.over_tiles(work, of_tile, jnp.int32(0)), slots)
