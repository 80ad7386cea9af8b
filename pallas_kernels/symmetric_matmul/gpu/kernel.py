"""alpha lhs rhs^T + beta addend + gamma I on Hopper where the result is known to be symmetric.

Only tiles of 128 x 128 on and above the diagonal are wanted; each is stored twice, as it is and
transposed through shared memory. Persistent blocks of threads work off items: one warpgroup
loads, two multiply, with 128 registers of sums each. There are two forms.

    T = 1    each multiplying warpgroup has items of its own: one stores while the other multiplies
    T = 2    both share items of two tiles in a row, 64 x 256 each, so that a slice is worth more

With T = 2 two blocks may form a cluster and compute 2 x 2 tiles: then each loads half of the
columns for both (multicast). Loads of an item's first slices and of its addend, which travels
through the same ring, overlap the previous item's stores.

Letters: B batch, M side of the result, K contracted width, T tiles per item, P items.
Shared memory at T = 1, 6 stages: ring 192 KB, staging 32. At T = 2, 4 stages: 192 and 32.
Roofline: L2 gives a multiprocessor about 45 bytes per cycle. A 64-wide slice is 512 T cycles of
tensor cores and reads 64 bytes per cycle at T = 1, 48 at T = 2, 32 in clusters, whose items on the
diagonal compute one tile of four in vain. Products of two operands at K = 768 are bound by HBM.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper
from pallas_kernels.symmetric_matmul import tiles

TILE = hopper.COMPUTE * hopper.ROWS
COLS = 64  # width of a 128-byte swizzled slice and of one stored chunk
_MATRIX = plgpu.Layout.WGMMA


class Config(NamedTuple):
    """Tuned choices; two blocks per cluster go with two tiles per item only."""

    tiles_per_item: int = 2
    cluster_size: int = 2  # in blocks
    num_stages: int = 4  # slices in flight
    num_clusters: int = 66  # launched


# jit: an iteration's products of one shape become one kernel, compiled once.
@functools.partial(jax.jit, static_argnames=("config", "interpret"))
def product(lhs_BMK, rhs_BMK, addend_BMM, coefficients, config: Config, interpret: bool = False):
    """Returns the result (B, M, M); coefficients is (3,) float32, addend may be None."""
    batch, size, depth = lhs_BMK.shape
    table = item_table(size, config)
    num_items = batch * len(table)
    plan = _Plan(
        num_items=num_items,
        items_per_matrix=len(table),
        num_slices=pl.cdiv(depth, COLS),
        has_addend=addend_BMM is not None,
        num_blocks=pl.cdiv(size, TILE),
        num_clusters=min(config.num_clusters, num_items),
        config=config,
    )
    addend = () if addend_BMM is None else (addend_BMM,)
    return plgpu.kernel(
        functools.partial(_kernel, plan=plan),
        out_type=jax.ShapeDtypeStruct((batch, size, size), lhs_BMK.dtype),
        scratch_types=_scratch(lhs_BMK.dtype, plan),
        grid=(plan.num_clusters,),
        grid_names=("item",),
        cluster=(config.cluster_size,),
        cluster_names=("row",),
        kernel_name="symmetric_product",
        **hopper.launch(interpret, approx_math=False),
    )(lhs_BMK, rhs_BMK, jnp.asarray(table), coefficients, *addend)


def item_table(size: int, config: Config) -> np.ndarray:
    """Returns (P, 1 + T) block rows and columns of the items of a matrix."""
    num_blocks = pl.cdiv(size, TILE)
    if config.cluster_size == 2:
        return tiles.clustered_items(num_blocks)
    return tiles.items(num_blocks, config.tiles_per_item)


class _Plan(NamedTuple):
    """The walk of a cluster over its items, and of an item over the ring."""

    num_items: int
    items_per_matrix: int
    num_slices: int
    has_addend: bool
    num_blocks: int
    num_clusters: int
    config: Config

    @property
    def steps_per_item(self) -> int:
        return self.num_slices + self.config.tiles_per_item * self.has_addend

    @property
    def num_teams(self) -> int:
        """How many items the two multiplying warpgroups work on at a time."""
        return 2 if self.config.tiles_per_item == 1 else 1

    @property
    def items_here(self):
        left = self.num_items - lax.axis_index("item") + (self.num_clusters - 1)
        return lax.div(left, np.int32(self.num_clusters))

    def slot(self, step):
        return hopper.slot_of(step, self.config.num_stages)

    def barrier(self, nth, slot):
        """Teams wait for the slices of their own items only: each has a row of barriers."""
        return lax.rem(nth, np.int32(self.num_teams)) * self.config.num_stages + slot

    def locate(self, nth, table) -> tuple:
        """The nth item of this block -> (matrix, block row, block columns)."""
        item = lax.axis_index("item") + nth * self.num_clusters
        batch = lax.div(item, np.int32(self.items_per_matrix))
        index = item - batch * self.items_per_matrix
        row, *cols = (table[index, i] for i in range(1 + self.config.tiles_per_item))
        return batch, row + lax.axis_index("row"), cols

    def is_wanted(self, row, col):
        """Whether a tile is neither missing, nor beyond the end, nor below a cluster's diagonal."""
        if self.config.cluster_size == 1:
            return col >= 0
        return (row <= col) & (col < self.num_blocks)


def _scratch(dtype, plan):
    stages, width = plan.config.num_stages, plan.config.tiles_per_item * TILE
    teams = plan.num_teams
    # Arrivals: by the warpgroups of a team in every block that slices are multicast to.
    free = dict(num_arrivals=2 // teams, num_barriers=stages)
    num_arrivals = 1 + plan.config.tiles_per_item
    return dict(
        rows_smem=hopper.tiled((stages, TILE, COLS), dtype),
        cols_smem=hopper.tiled((stages, width, COLS), dtype),
        # A transposed and a straight chunk of each warpgroup.
        staging_smem=hopper.tiled((hopper.COMPUTE, 2, hopper.ROWS, COLS), dtype),
        ready=plgpu.Barrier(num_arrivals=num_arrivals, num_barriers=teams * stages),
        addend_ready=plgpu.Barrier(num_arrivals=2, num_barriers=teams * stages),
        free=(
            plgpu.Barrier(**free)
            if plan.config.cluster_size == 1
            else plgpu.ClusterBarrier(collective_axes=("row",), **free)
        ),
    )


class _Ring(NamedTuple):
    """Slots of slices, some of which an addend's tiles take, and their barriers."""

    rows_smem: Any
    cols_smem: Any
    ready: Any
    addend_ready: Any
    free: Any

    def addend_halves(self, slot):
        """Where the left and right 64 columns of an addend's tile lie."""
        return self.rows_smem.at[slot], self.cols_smem.at[slot, pl.ds(0, TILE)]


def _kernel(lhs, rhs, table, coefficients, *rest, plan, **scratch):
    *addend, out = rest
    ring = hopper.pick(_Ring, scratch)

    def compute(warpgroup):
        staging = scratch["staging_smem"].at[warpgroup]
        _compute(out, table, coefficients, warpgroup, plan, ring, staging)

    def load():
        _load(lhs, rhs, table, addend[0] if addend else None, plan, ring)

    hopper.specialize(lax.axis_index("warpgroup"), compute, load)


def _load(lhs, rhs, table, addend, plan, ring):
    num_steps = plan.items_here * plan.steps_per_item
    multicast = None if plan.config.cluster_size == 1 else "row"
    slots = hopper.Slots(ring.ready, ring.free, plan.config.num_stages)

    def load(nth, place):
        batch, row, cols = place
        after = plan.locate(nth + 1, table)  # now: its latency hides behind this item's loads
        cols = [jnp.maximum(col, 0) for col in cols]  # a missing one is not stored
        rows = pl.ds(row * TILE, TILE)
        first = nth * plan.steps_per_item

        @pl.loop(0, plan.num_slices)
        def _(k):
            slot = hopper.wait_for_slot(first + k, slots)
            slice, barrier = pl.ds(k * COLS, COLS), ring.ready.at[plan.barrier(nth, slot)]
            plgpu.copy_gmem_to_smem(lhs.at[batch, rows, slice], ring.rows_smem.at[slot], barrier)
            for i, col in enumerate(cols):
                source = rhs.at[batch, pl.ds(col * TILE, TILE), slice]
                target = ring.cols_smem.at[slot, pl.ds(i * TILE, TILE)]
                plgpu.copy_gmem_to_smem(source, target, barrier, collective_axes=multicast)

        if addend is not None:
            for i, col in enumerate(cols):
                slot = hopper.wait_for_slot(first + (plan.num_slices + i), slots)
                barrier = ring.addend_ready.at[plan.barrier(nth, slot)]
                for half, target in enumerate(ring.addend_halves(slot)):
                    source = addend.at[batch, rows, pl.ds(col * TILE + half * COLS, COLS)]
                    plgpu.copy_gmem_to_smem(source, target, barrier)
        return after

    lax.fori_loop(0, plan.items_here, load, plan.locate(0, table))
    hopper.drain(num_steps, slots)


def _compute(out, table, coefficients, warpgroup, plan, ring, staging):
    scale, addend_scale, diagonal = (coefficients[i] for i in range(3))
    teams = plan.num_teams
    # The halves of a tile's rows that are this warpgroup's: both, if the item is its own.
    team, strips = (warpgroup, (0, 1)) if teams == 2 else (0, (warpgroup,))
    own = pl.ds(strips[0] * hopper.ROWS, len(strips) * hopper.ROWS)
    shape = len(strips) * hopper.ROWS, plan.config.tiles_per_item * TILE

    @pl.loop(0, lax.div(plan.items_here - team + (teams - 1), np.int32(teams)))
    def _(turn):
        nth = turn * teams + team
        batch, row, cols = plan.locate(nth, table)
        multiply = functools.partial(_multiply, own, nth, plan, ring)
        sums = pl.run_scoped(multiply, hopper.accumulator(*shape))
        after = nth * plan.steps_per_item + plan.num_slices
        plgpu.barrier_arrive(ring.free.at[plan.slot(after - 1)])
        for i, col in enumerate(cols):
            slot, halves = plan.slot(after + i), None
            if plan.has_addend:
                plgpu.barrier_wait(ring.addend_ready.at[plan.barrier(nth, slot)])
                halves = ring.addend_halves(slot)
            values = _values(sums, i, strips, halves, scale, addend_scale)
            if plan.has_addend:  # before the stores: the ring waits for this slot
                plgpu.commit_smem()  # unlike wgmma's, these reads are not ordered before TMA
                plgpu.barrier_arrive(ring.free.at[slot])
            is_wanted = plan.is_wanted(row, col)
            _store(values, diagonal, out.at[batch], row, col, is_wanted, staging)

    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _multiply(own, nth, plan, ring, acc):
    """Sums up an item's slices; the last one's slot is still to be freed."""
    first = nth * plan.steps_per_item

    @pl.loop(0, plan.num_slices)
    def _(k):
        slot = plan.slot(first + k)
        plgpu.barrier_wait(ring.ready.at[plan.barrier(nth, slot)])
        plgpu.wgmma(acc, ring.rows_smem.at[slot, own], ring.cols_smem.at[slot].T)
        plgpu.wgmma_wait(1)

        @pl.when(k > 0)
        def _():
            plgpu.barrier_arrive(ring.free.at[plan.slot(first + k - 1)])

    return acc[...]


def _values(sums, i, strips, addend_halves, scale, addend_scale):
    """Returns (strip, half, value) of the 64 x 64 chunks of a warpgroup's part of tile i."""
    values = []
    for n, strip in enumerate(strips):
        for half in range(2):
            top, left = n * hopper.ROWS, i * TILE + half * COLS
            value = scale * sums[top : top + hopper.ROWS, left : left + COLS]
            if addend_halves is not None:
                addend = addend_halves[half].at[pl.ds(strip * hopper.ROWS, hopper.ROWS)]
                addend = plgpu.load(addend, layout=_MATRIX)
                value += addend_scale * addend.astype(jnp.float32)
            values.append((strip, half, value))
    return values


def _store(values, diagonal, matrix, row, col, is_wanted, staging):
    """Stores a tile's chunks and their mirrors, except chunks below the matrix's diagonal."""
    for strip, half, value in values:
        on_diagonal = (row == col) & (strip == half)
        is_below = (row == col) & (strip > half)
        chunk = _Chunk(matrix, row * TILE + strip * hopper.ROWS, col * TILE + half * COLS)
        pl.when(is_wanted & ~on_diagonal & ~is_below)(
            functools.partial(_store_twice, value, chunk, staging)
        )
        pl.when(is_wanted & on_diagonal)(
            functools.partial(_store_symmetric, value, diagonal, chunk, staging)
        )


class _Chunk(NamedTuple):
    """Where 64 x 64 entries belong: the upper left one at (row, col) of a matrix."""

    matrix: jax.Array
    row: jax.Array
    col: jax.Array

    @property
    def straight(self):
        return self.matrix.at[pl.ds(self.row, hopper.ROWS), pl.ds(self.col, COLS)]

    @property
    def mirrored(self):
        return self.matrix.at[pl.ds(self.col, COLS), pl.ds(self.row, hopper.ROWS)]


def _store_twice(value, chunk, staging):
    """Stores a chunk and its transpose; at most the previous chunk's straight copy is under way."""
    value = value.astype(staging.dtype)
    for smem, to, target in (
        (staging.at[0], staging.at[0].T, chunk.mirrored),
        (staging.at[1], staging.at[1], chunk.straight),
    ):
        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
        to[...] = value
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(smem, target)


def _store_symmetric(value, diagonal, chunk, staging):
    """Stores a chunk on the diagonal, its upper triangle mirrored: sums may differ in rounding."""
    value = (value + jnp.where(_iota(0) == _iota(1), diagonal, 0.0)).astype(staging.dtype)
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    staging.at[0].T[...] = value
    plgpu.commit_smem()
    mirrored = plgpu.load(staging.at[0], layout=_MATRIX)
    staging.at[1][...] = jnp.where(_iota(0) <= _iota(1), value, mirrored)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(staging.at[1], chunk.straight)


def _iota(axis):
    return plgpu.broadcasted_iota(jnp.int32, (hopper.ROWS, COLS), axis, layout=_MATRIX)
