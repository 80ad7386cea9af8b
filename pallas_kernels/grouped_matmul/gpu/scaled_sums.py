"""The sums for a warpgroup's rows and a tile's columns, from E4M3 products and float32 scales.

The sums of wgmma keep about 14 bits. So each block of 128 contracted elements is scaled and added
to float32 registers (arXiv:2412.19437, sec. 3.3.2), while other warpgroups multiply. Where one
block is as wide as K, sums stay in the tensor cores to the end and are scaled once.

What else was tried is in docs/decisions.md. Slices are 128 columns, which share a scale of rhs.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper
from pallas_kernels.grouped_matmul.gpu import ring
from pallas_kernels.grouped_matmul.gpu.scaled_ring import STEP, Config, Memory, landed

_BY_ROW = plgpu.Layout.WGMMA.reduce(1)


class Scales(NamedTuple):
    """Scales of the blocks of lhs (I, M) and of rhs (G, N / 128, I)."""

    lhs: Any
    rhs: Any

    @property
    def has_blocks(self) -> bool:
        return self.lhs.shape[0] > 1


class Work(NamedTuple):
    """A warpgroup's part of a tile, and the steps of the ring that bring it."""

    warpgroup: Any
    row: Any
    group: Any
    columns: list  # of rhs, where each slice begins
    first_step: Any
    num_steps: Any


def of_blocks(memory: Memory, scales: Scales, config: Config, work: Work):
    """The sums of each slice (64, 128): a block is scaled, then added."""
    zeros = jnp.zeros((hopper.ROWS, STEP), jnp.float32)
    totals = [plgpu.layout_cast(zeros, plgpu.Layout.WGMMA)] * len(work.columns)
    add = functools.partial(_add_step, memory, scales, config, work)
    return lax.fori_loop(0, work.num_steps, add, tuple(totals))


def of_whole_rows(memory: Memory, scales: Scales, config: Config, work: Work):
    """The same where one block is as wide as K."""

    def product(accs, slot):
        for turn in range(1, config.num_turns):
            plgpu.barrier_wait(landed(memory, config, slot, turn))
        for part, acc in enumerate(accs):
            _multiply(memory, config, work, slot, part, acc)

    def sums(*accs):
        ring.multiply(accs, work.first_step, work.num_steps, product, memory.slots)
        return tuple(acc[...] for acc in accs)

    accs = [hopper.accumulator(hopper.ROWS, config.part_n)] * config.num_turns
    whole = pl.run_scoped(sums, *accs)
    # Rows beyond the groups, whose sums are 0, have no matrix.
    is_in_group = work._replace(group=jnp.minimum(work.group, scales.rhs.shape[0] - 1))
    factors = _load_factors(scales, is_in_group, 0)
    slices = [one for product in whole for one in _slices(product)]
    return [_scaled(product, factors, nth) for nth, product in enumerate(slices)]


def _add_step(memory, scales, config, work, i, totals):
    """totals plus the scaled products of the i-th block of a tile."""
    slots = memory.slots
    slot = hopper.slot_of(work.first_step + i, slots.num_stages)
    factors = _load_factors(scales, work, i)  # these arrive during the waits

    def add_part(turn, acc):
        _multiply(memory, config, work, slot, turn, acc)
        product = plgpu.wgmma_accumulator_load(acc)
        if turn == config.num_turns - 1:
            plgpu.barrier_arrive(slots.free.at[slot])
        first = turn * config.part_n // STEP
        return tuple(
            totals[nth] + _scaled(own, factors, nth)
            for nth, own in enumerate(_slices(product), first)
        )

    added = []
    for turn in range(config.num_turns):
        plgpu.barrier_wait(landed(memory, config, slot, turn))
        acc = hopper.accumulator(hopper.ROWS, config.part_n)
        added += pl.run_scoped(functools.partial(add_part, turn), acc)
    return tuple(added)


def _multiply(memory, config, work, slot, part, acc):
    own = pl.ds(work.warpgroup * hopper.ROWS, hopper.ROWS)
    rhs = memory.rhs.at[slot, pl.ds(part * config.part_n, config.part_n)]
    plgpu.wgmma(acc, memory.lhs.tiled.at[slot, own], rhs.T)


def _slices(product):
    num = product.shape[1] // STEP
    return [product] if num == 1 else [product[:, i * STEP : (i + 1) * STEP] for i in range(num)]


class _Factors(NamedTuple):
    """Scales of a block: those of a warpgroup's rows (64,), and one for each slice of columns."""

    by_row: Any
    by_slice: list


def _load_factors(scales, work, i) -> _Factors:
    own = scales.lhs.at[i, pl.ds(work.row, hopper.ROWS)]
    blocks = [lax.div(column, jnp.int32(STEP)) for column in work.columns]
    by_slice = [scales.rhs[work.group, block, i] for block in blocks]
    return _Factors(plgpu.load(own, layout=_BY_ROW, optimized=False), by_slice)


def _scaled(product, factors: _Factors, nth):
    by_row = factors.by_row * factors.by_slice[nth]
    return product * lax.broadcast_in_dim(by_row, product.shape, (0,))
