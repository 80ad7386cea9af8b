"""alpha lhs rhs^T + beta addend + gamma I on Hopper where the result is known to be symmetric.

Only tiles on and above the diagonal are computed; each is stored twice, as it is and transposed
through shared memory. One block per multiprocessor works off items, two tiles of 128 x 128 that
share a block of rows: a warpgroup loads, two multiply 64 x 256 each (128 registers of sums). Loads
of an item's first slices and of its addend, which travels through the same ring, overlap the
previous item's stores.

Letters: B batch, M side of the result, K contracted width, T tiles per item, P items.
Shared memory at T = 2, 4 stages: ring 192 KB, staging 32. At T = 1, 6 stages: 192 and 32.
Roofline: a 64-wide slice is 1024 cycles of tensor cores (T = 2) and 48 KB from L2, 47 bytes per
cycle where about 45 are to be had; T = 1 needs 64 bytes per cycle.
"""
# Pallas does not list ACC among its exports and leaves its transforms abstract.
# pyright: reportPrivateImportUsage=false, reportAbstractUsage=false

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.newton_schulz import tiles

ROWS = 64  # rows of one warpgroup: the M of a wgmma instruction
TILE = 2 * ROWS
COLS = 64  # width of a 128-byte swizzled slice and of one stored chunk
_MATRIX = plgpu.Layout.WGMMA


class Config(NamedTuple):
    """Tuned choices: tiles per item (1 or 2), slices in flight, blocks launched."""

    tiles_per_item: int = 2
    num_stages: int = 4
    num_ctas: int = 132


# jit: an iteration's products of one shape become one kernel, compiled once.
@functools.partial(jax.jit, static_argnames=("config", "interpret"))
def product(lhs_BMK, rhs_BMK, addend_BMM, coefficients, config: Config, interpret: bool = False):
    """Returns the result (B, M, M); coefficients is (3,) float32, addend may be None."""
    batch, size, depth = lhs_BMK.shape
    table = tiles.items(pl.cdiv(size, TILE), config.tiles_per_item)
    num_items = batch * len(table)
    plan = _Plan(
        num_items=num_items,
        items_per_matrix=len(table),
        num_slices=pl.cdiv(depth, COLS),
        has_addend=addend_BMM is not None,
        num_ctas=min(config.num_ctas, num_items),
        config=config,
    )
    addend = () if addend_BMM is None else (addend_BMM,)
    return plgpu.kernel(
        functools.partial(_kernel, plan=plan),
        out_type=jax.ShapeDtypeStruct((batch, size, size), lhs_BMK.dtype),
        scratch_types=_scratch(lhs_BMK.dtype, config),
        grid=(plan.num_ctas,),
        grid_names=("cta",),
        num_threads=3,
        thread_name="warpgroup",
        kernel_name="symmetric_product",
        interpret=plgpu.InterpretGPUParams(detect_races=True) if interpret else None,
        compiler_params=plgpu.CompilerParams(
            unsafe_no_auto_barriers=True,
            reduction_scratch_bytes=0,
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup,
        ),
    )(lhs_BMK, rhs_BMK, jnp.asarray(table), coefficients, *addend)


class _Plan(NamedTuple):
    """The walk of a block over its items, and of an item over the ring."""

    num_items: int
    items_per_matrix: int
    num_slices: int
    has_addend: bool
    num_ctas: int
    config: Config

    @property
    def steps_per_item(self) -> int:
        return self.num_slices + self.config.tiles_per_item * self.has_addend

    def items_of(self, cta):
        return lax.div(self.num_items - cta + (self.num_ctas - 1), np.int32(self.num_ctas))

    def slot(self, step):
        return lax.rem(step, np.int32(self.config.num_stages))

    def locate(self, nth, table) -> tuple:
        """The nth item of this block -> (matrix, shared block, other blocks)."""
        item = lax.axis_index("cta") + nth * self.num_ctas
        batch = lax.div(item, np.int32(self.items_per_matrix))
        row = item - batch * self.items_per_matrix
        shared, *others = (table[row, i] for i in range(1 + self.config.tiles_per_item))
        return batch, shared, others


def _scratch(dtype, config):
    stages, width = config.num_stages, config.tiles_per_item * TILE
    return dict(
        shared_smem=_tiled((stages, TILE, COLS), dtype),
        others_smem=_tiled((stages, width, COLS), dtype),
        # A transposed and a straight chunk of each warpgroup.
        staging_smem=_tiled((2, 2, ROWS, COLS), dtype),
        ready=plgpu.Barrier(num_arrivals=1 + config.tiles_per_item, num_barriers=stages),
        addend_ready=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        free=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
    )


def _kernel(lhs, rhs, table, coefficients, *rest, plan, **scratch):
    *addend, out = rest
    warpgroup = lax.axis_index("warpgroup")

    @pl.when(warpgroup < 2)
    def _():
        plgpu.set_max_registers(240, action="increase")
        _compute(out, table, coefficients, warpgroup, plan, **scratch)

    @pl.when(warpgroup == 2)
    def _():
        plgpu.set_max_registers(24, action="decrease")
        _load(lhs, rhs, table, addend[0] if addend else None, plan, **scratch)


def _load(lhs, rhs, table, addend, plan, *, shared_smem, others_smem, ready, addend_ready,
          free, **_):  # fmt: skip
    num_steps = plan.items_of(lax.axis_index("cta")) * plan.steps_per_item

    def free_slot(step):
        slot = plan.slot(step)

        @pl.when(step >= plan.config.num_stages)
        def _():
            plgpu.barrier_wait(free.at[slot])

        return slot

    @pl.loop(0, plan.items_of(lax.axis_index("cta")))
    def _(nth):
        batch, shared, others = plan.locate(nth, table)
        others = [jnp.maximum(other, 0) for other in others]  # a missing one is not stored
        rows = pl.ds(shared * TILE, TILE)
        first = nth * plan.steps_per_item

        @pl.loop(0, plan.num_slices)
        def _(k):
            slot = free_slot(first + k)
            cols = pl.ds(k * COLS, COLS)
            plgpu.copy_gmem_to_smem(lhs.at[batch, rows, cols], shared_smem.at[slot], ready.at[slot])
            for i, other in enumerate(others):
                source = rhs.at[batch, pl.ds(other * TILE, TILE), cols]
                target = others_smem.at[slot, pl.ds(i * TILE, TILE)]
                plgpu.copy_gmem_to_smem(source, target, ready.at[slot])

        if addend is not None:
            for i, other in enumerate(others):
                slot = free_slot(first + (plan.num_slices + i))
                halves = _addend_halves(shared_smem, others_smem, slot)
                for half, target in enumerate(halves):
                    cols = pl.ds(other * TILE + half * COLS, COLS)
                    source = addend.at[batch, rows, cols]
                    plgpu.copy_gmem_to_smem(source, target, addend_ready.at[slot])

    # A block must not end, nor interpret mode, with releases that nobody has seen.
    @pl.loop(jnp.maximum(0, num_steps - plan.config.num_stages), num_steps)
    def _(step):
        plgpu.barrier_wait(free.at[plan.slot(step)])


def _addend_halves(shared_smem, others_smem, slot):
    """Where the left and right 64 columns of an addend's tile lie in the ring."""
    return shared_smem.at[slot], others_smem.at[slot, pl.ds(0, TILE)]


def _compute(out, table, coefficients, warpgroup, plan, *, shared_smem, others_smem, staging_smem,
             ready, addend_ready, free):  # fmt: skip
    own = pl.ds(warpgroup * ROWS, ROWS)
    scale, addend_scale, diagonal = (coefficients[i] for i in range(3))

    @pl.loop(0, plan.items_of(lax.axis_index("cta")))
    def _(nth):
        batch, shared, others = plan.locate(nth, table)
        first = nth * plan.steps_per_item

        def accumulate(acc):
            @pl.loop(0, plan.num_slices)
            def _(k):
                slot = plan.slot(first + k)
                plgpu.barrier_wait(ready.at[slot])
                plgpu.wgmma(acc, shared_smem.at[slot, own], others_smem.at[slot].T)
                plgpu.wgmma_wait(1)

                @pl.when(k > 0)
                def _():
                    plgpu.barrier_arrive(free.at[plan.slot(first + k - 1)])

            return acc[...]

        width = plan.config.tiles_per_item * TILE
        sums = pl.run_scoped(accumulate, plgpu.ACC((ROWS, width), jnp.float32))
        plgpu.barrier_arrive(free.at[plan.slot(first + (plan.num_slices - 1))])
        for i, other in enumerate(others):
            slot = plan.slot(first + (plan.num_slices + i))
            if plan.has_addend:
                plgpu.barrier_wait(addend_ready.at[slot])
            for half, smem in enumerate(_addend_halves(shared_smem, others_smem, slot)):
                col = i * TILE + half * COLS
                value = scale * sums[:, col : col + COLS]
                if plan.has_addend:
                    addend = plgpu.load(smem.at[own], layout=_MATRIX)
                    value += addend_scale * addend.astype(jnp.float32)
                on_diagonal = (shared == other) & (warpgroup == half)
                value += jnp.where(_is_diagonal(), jnp.where(on_diagonal, diagonal, 0.0), 0.0)
                value = value.astype(out.dtype)
                is_below = (shared == other) & (warpgroup > half)
                row = shared * TILE + warpgroup * ROWS
                chunk = _Chunk(out.at[batch], row, other * TILE + half * COLS)
                staging = staging_smem.at[warpgroup]
                pl.when((other >= 0) & ~on_diagonal & ~is_below)(
                    functools.partial(_store_twice, value, chunk, staging)
                )
                pl.when((other >= 0) & on_diagonal)(
                    functools.partial(_store_symmetric, value, chunk, staging)
                )
            if plan.has_addend:
                plgpu.commit_smem()  # unlike wgmma's, these reads are not ordered before TMA
                plgpu.barrier_arrive(free.at[slot])

    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


class _Chunk(NamedTuple):
    """Where 64 x 64 entries belong: the upper left one at (row, col) of a matrix."""

    matrix: jax.Array
    row: jax.Array
    col: jax.Array

    @property
    def straight(self):
        return self.matrix.at[pl.ds(self.row, ROWS), pl.ds(self.col, COLS)]

    @property
    def mirrored(self):
        return self.matrix.at[pl.ds(self.col, COLS), pl.ds(self.row, ROWS)]


def _store_twice(value, chunk, staging):
    """Stores a chunk and its transpose; at most the previous chunk's straight copy is under way."""
    for smem, to, target in (
        (staging.at[0], staging.at[0].T, chunk.mirrored),
        (staging.at[1], staging.at[1], chunk.straight),
    ):
        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
        to[...] = value
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(smem, target)


def _store_symmetric(value, chunk, staging):
    """Stores a chunk on the diagonal, its upper triangle mirrored: sums may differ in rounding."""
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    staging.at[0].T[...] = value
    plgpu.commit_smem()
    mirrored = plgpu.load(staging.at[0], layout=_MATRIX)
    staging.at[1][...] = jnp.where(_iota(0) <= _iota(1), value, mirrored)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(staging.at[1], chunk.straight)


def _is_diagonal():
    return _iota(0) == _iota(1)


def _iota(axis):
    return plgpu.broadcasted_iota(jnp.int32, (ROWS, COLS), axis, layout=_MATRIX)


def _tiled(shape, dtype):
    """Shared memory in the 128-byte swizzle that TMA writes and wgmma reads."""
    return plgpu.SMEM(
        shape, dtype, transforms=(plgpu.TilingTransform((8, COLS)), plgpu.SwizzleTransform(128))
    )
