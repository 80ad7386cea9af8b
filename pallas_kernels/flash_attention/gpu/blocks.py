"""What the Hopper kernels of both passes share: where a block works, the ring of keys, masks.

Letters: B batch, S queries, T keys, N query heads.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper
from pallas_kernels.flash_attention import tiles
from pallas_kernels.flash_attention.gpu import order

TILE_Q = hopper.COMPUTE * hopper.ROWS
LOG2_E = math.log2(math.e)
# Layouts of scores, and of values for each of their rows and columns.
MATRIX = plgpu.Layout.WGMMA
ROW, COL = MATRIX.reduce(1), MATRIX.reduce(0)


@dataclasses.dataclass(frozen=True)
class Static:
    """What is fixed at trace time; the arrays' lengths are these, padded to multiples of 8."""

    num_rows: int
    num_cols: int
    causal: bool
    scale: float
    interpret: bool = False
    with_max: bool = True  # without, the benchmark measures what row maxima cost


class BackwardInputs(NamedTuple):
    """What the backward kernels read; lse and delta are (B, N, S padded to whole tiles)."""

    q: Any
    k: Any
    v: Any
    q_ids: Any
    kv_ids: Any
    dout: Any
    lse: Any
    delta: Any

    @property
    def arrays(self) -> tuple:
        """All but the ids, which kernels receive padded."""
        return self.q, self.k, self.v, self.dout, self.lse, self.delta


class KeyVisits(NamedTuple):
    """Which blocks of keys each tile of queries visits, as tiles.Range.

    `of_tile` gives them for tiles without segment ids; `packed` is () or what a kernel reads
    instead: the table (B, tiles, 4) and both sides' ids.
    """

    of_tile: Callable
    packed: tuple


def visit_keys(q_ids_BS, kv_ids_BT, block_kv: int, static: Static) -> KeyVisits:
    """The visits of tiles of TILE_Q queries; the ids may both be None."""
    of_tile = functools.partial(
        tiles.key_range,
        tile_q=TILE_Q,
        block_kv=block_kv,
        num_rows=static.num_rows,
        num_cols=static.num_cols,
        causal=static.causal,
    )
    if q_ids_BS is None:
        return KeyVisits(of_tile, ())
    q_ids, kv_ids = tiles.pad_ids(q_ids_BS, TILE_Q), tiles.pad_ids(kv_ids_BT, block_kv)
    by_causality = of_tile(jnp.arange(pl.cdiv(static.num_rows, TILE_Q), dtype=jnp.int32))
    table = tiles.segment_ranges(q_ids, kv_ids, tile=TILE_Q, block=block_kv, ranges=by_causality)
    return KeyVisits(of_tile, (table, q_ids, kv_ids))


class Place(NamedTuple):
    """What one block works on: a tile of queries of one head, and the keys it visits."""

    batch: jax.Array
    head: jax.Array
    kv_head: jax.Array
    tile: jax.Array
    visits: tiles.Range
    ids: tuple | None


def place(q, k, v, key_visits: KeyVisits, static: Static) -> Place:
    """Where the running block stands, among tiles of TILE_Q queries; packed visits are Refs."""
    batch, _, num_heads, _ = q.shape
    num_tiles = pl.cdiv(static.num_rows, TILE_Q)
    bytes_per_head = k.shape[1] * (k.shape[3] + v.shape[3]) * 2 * k.shape[2] // num_heads
    together = order.side_by_side(batch * num_heads, bytes_per_head)
    bh, position = order.decode(lax.axis_index("cta"), num_tiles=num_tiles, heads_together=together)
    tile = num_tiles - 1 - position  # the last tiles see the most keys: longest first
    b, head = lax.div(bh, np.int32(num_heads)), lax.rem(bh, np.int32(num_heads))
    kv_head = lax.div(head, np.int32(num_heads // k.shape[2]))
    if key_visits.packed:
        table, q_ids, kv_ids = key_visits.packed
        visits = tiles.read_range(table, b, tile)
        return Place(b, head, kv_head, tile, visits, (q_ids.at[b], kv_ids.at[b]))
    return Place(b, head, kv_head, tile, key_visits.of_tile(tile), None)


class KeyRing(NamedTuple):
    """Blocks of keys and of values in flight; a slot has a barrier for landed and one for read."""

    k_smem: Any
    v_smem: Any
    k_ready: Any
    v_ready: Any
    k_free: Any
    v_free: Any

    @property
    def num_stages(self) -> int:
        return self.k_smem.shape[0]

    @property
    def block_kv(self) -> int:
        return self.k_smem.shape[1]

    @property
    def k_slots(self) -> hopper.Slots:
        return hopper.Slots(self.k_ready, self.k_free, self.num_stages)

    @property
    def v_slots(self) -> hopper.Slots:
        return hopper.Slots(self.v_ready, self.v_free, self.num_stages)


def key_ring(num_stages: int, block_kv: int, width: int, width_v: int, dtype) -> dict[str, Any]:
    """The scratch of a KeyRing."""
    ready = plgpu.Barrier(num_arrivals=1, num_barriers=num_stages)
    free = plgpu.Barrier(num_arrivals=hopper.COMPUTE, num_barriers=num_stages)
    ring = KeyRing(
        k_smem=hopper.tiled((num_stages, block_kv, width), dtype),
        v_smem=hopper.tiled((num_stages, block_kv, width_v), dtype),
        k_ready=ready,
        v_ready=ready,
        k_free=free,
        v_free=free,
    )
    return ring._asdict()


def load_keys(k, v, visits: tiles.Range, ring: KeyRing) -> None:
    """The loading warpgroup: streams the visited blocks of keys and values through the ring."""
    stages, block_kv = ring.num_stages, ring.block_kv

    @pl.loop(visits.first, visits.last)
    def _(block):
        step = block - visits.first
        slot = hopper.slot_of(step, stages)
        rows = pl.ds(block * block_kv, block_kv)
        for source, target, slots in (
            (k, ring.k_smem, ring.k_slots),
            (v, ring.v_smem, ring.v_slots),
        ):
            hopper.wait_until_free(step, slot, slots)
            plgpu.copy_gmem_to_smem(source.at[rows], target.at[slot], slots.ready.at[slot])

    # Neither a block nor interpret mode may end with releases that nobody has seen.
    @pl.loop(jnp.maximum(visits.first, visits.last - stages), visits.last)
    def _(block):
        slot = hopper.slot_of(block - visits.first, stages)
        plgpu.barrier_wait(ring.k_free.at[slot])
        plgpu.barrier_wait(ring.v_free.at[slot])


def may_hide(ids, block_kv: int, static: Static) -> bool:
    """Whether some block of keys may hold scores that do not count."""
    return static.causal or ids is not None or static.num_cols % block_kv != 0


def mask(score, row, col, ids, static: Static, block_kv: int):
    """Scores (queries, keys) from the given corner, -inf where not visible."""

    def iota(axis):
        return plgpu.broadcasted_iota(jnp.int32, score.shape, axis, layout=MATRIX)

    seen = None
    if static.causal:
        seen = iota(0) + (row + static.num_cols - static.num_rows - col) >= iota(1)
    elif static.num_cols % block_kv:
        seen = iota(1) < static.num_cols - col
    if ids is not None:
        q_ids = _load_ids(ids[0], row, hopper.ROWS, ROW)
        kv_ids = _load_ids(ids[1], col, score.shape[1], COL)
        same = lax.broadcast_in_dim(q_ids, score.shape, [0]) == lax.broadcast_in_dim(
            kv_ids, score.shape, [1]
        )
        seen = same if seen is None else seen & same
    assert seen is not None  # callers ask only where something may be hidden
    return jnp.where(seen, score, -jnp.inf)


def _load_ids(ids, start, size, layout):
    return plgpu.load(ids.at[pl.ds(start, size)], layout=layout, optimized=False)
