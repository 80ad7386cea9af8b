"""dk and dv on Hopper, and dq where it is fused: one tile of keys meets the queries that see it.

    p = 2^(c s - lse)   dv = sum p^T dout   ds = p (dout v^T - delta)   dk = sum ds^T q   dq += ds k
    with s = q k^T, c = scale log2(e), delta = sum_U out dout; dq and dk still lack `scale`.

Each compute warpgroup owns 64 keys and keeps their dk and dv in registers while queries stream by
in blocks of 64, for all query heads that share the key head; p and ds pass through shared memory.
The fused kernel also multiplies ds by k: the two warpgroups exchange ds through shared memory, one
step behind so that neither waits for the other, and TMA adds their dq tiles to float32 memory in
whatever order they arrive.

Letters: B batch, S queries, T keys, N query heads, H key heads, D query and key width, U value
width. Shared memory, fused, D/U 192/128: k 48 KB, v 32, q 48, dout 32, ds 32, dq 32.
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
from pallas_kernels.flash_attention import tiles
from pallas_kernels.flash_attention.gpu import blocks, order

TILE_KV = hopper.COMPUTE * hopper.ROWS
BLOCK_Q = 64
COLS = 64  # one dq chunk, the width of a swizzled tile


def gradients(inputs: blocks.BackwardInputs, dq_ref, static: blocks.Static, config):
    """Returns dk and dv; adds to dq_ref, float32 (B, S, N, D), unless it is None."""
    k, v = inputs.k, inputs.v
    batch, _, num_kv_heads, _ = k.shape
    num_tiles = pl.cdiv(static.num_cols, TILE_KV)
    query_range = functools.partial(
        tiles.query_range,
        tile_kv=TILE_KV,
        block_q=BLOCK_Q,
        num_rows=static.num_rows,
        num_cols=static.num_cols,
        causal=static.causal,
    )
    packed = ()
    if inputs.q_ids is not None:
        q_ids = tiles.pad_ids(inputs.q_ids, BLOCK_Q)
        kv_ids = tiles.pad_ids(inputs.kv_ids, TILE_KV)
        by_causality = query_range(jnp.arange(num_tiles, dtype=jnp.int32))
        table = tiles.segment_ranges(
            kv_ids, q_ids, tile=TILE_KV, block=BLOCK_Q, ranges=by_causality
        )
        packed = (table, q_ids, kv_ids)
    operands = (*inputs.arrays, *packed)
    if dq_ref is not None:
        operands += (dq_ref,)
    body = functools.partial(
        _kernel,
        static=static,
        query_range=query_range,
        num_packed=len(packed),
    )
    return plgpu.kernel(
        body,
        out_type=(jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)),
        scratch_types=_scratch(inputs.q, v, config, fused=dq_ref is not None),
        grid=(batch * num_kv_heads * num_tiles,),
        grid_names=("cta",),
        kernel_name="flash_attention_backward_kv",
        **hopper.launch(static.interpret),
    )(*operands)


def _scratch(q, v, config, *, fused):
    dtype, width, width_v, stages = q.dtype, q.shape[3], v.shape[3], config.num_stages
    scratch = dict(
        k_smem=hopper.tiled((width // COLS, TILE_KV, COLS), dtype),
        v_smem=hopper.tiled((TILE_KV, width_v), dtype),
        q_smem=hopper.tiled((stages, BLOCK_Q, width), dtype),
        dout_smem=hopper.tiled((stages, BLOCK_Q, width_v), dtype),
        # Probabilities, then ds, for each (step parity, warpgroup).
        ds_smem=hopper.tiled((2, hopper.COMPUTE, BLOCK_Q, hopper.ROWS), dtype),
        lse_smem=plgpu.SMEM((stages, BLOCK_Q), jnp.float32),
        delta_smem=plgpu.SMEM((stages, BLOCK_Q), jnp.float32),
        kv_ready=plgpu.Barrier(num_arrivals=width // COLS + 1, num_barriers=1),
        q_ready=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        dout_ready=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        free=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
    )
    if fused:
        scratch |= dict(
            dq_smem=hopper.tiled((2, BLOCK_Q, COLS), jnp.float32),
            ds_ready=plgpu.Barrier(num_arrivals=2, num_barriers=1),
        )
    return scratch


class _Tile(NamedTuple):
    """The tile of keys in shared memory, half of the rows for each warpgroup; keys in chunks."""

    k_smem: Any
    v_smem: Any
    kv_ready: Any


class _Ring(NamedTuple):
    """Blocks of queries in flight: per slot q with lse, dout with delta, and when all are read."""

    q_smem: Any
    lse_smem: Any
    dout_smem: Any
    delta_smem: Any
    q_ready: Any
    dout_ready: Any
    free: Any

    @property
    def slots(self) -> hopper.Slots:
        return hopper.Slots(self.q_ready, self.free, self.q_smem.shape[0])


class _Exchange(NamedTuple):
    """Where ds passes from registers to wgmma; if fused, also to the other warpgroup and out."""

    ds_smem: Any
    ds_ready: Any = None
    dq_smem: Any = None


class _Memory(NamedTuple):
    tile: _Tile
    ring: _Ring
    exchange: _Exchange


def _memory(scratch) -> _Memory:
    return _Memory(
        hopper.pick(_Tile, scratch), hopper.pick(_Ring, scratch), hopper.pick(_Exchange, scratch)
    )


class _Walk(NamedTuple):
    """The blocks of queries that meet a tile of keys, in turn for each head that shares them."""

    first: jax.Array | int
    per_head: jax.Array | int
    num_steps: jax.Array | int
    kv_head: jax.Array
    num_heads: int

    def position(self, step):
        """step -> (query head, block of queries)"""
        if self.num_heads == 1:
            return self.kv_head, self.first + step
        nth = lax.div(step, jnp.maximum(self.per_head, 1))
        return self.kv_head * self.num_heads + nth, self.first + step - nth * self.per_head


def _kernel(q, k, v, dout, lse, delta, *rest, static, query_range, num_packed, **scratch):
    packed, rest = rest[:num_packed], rest[num_packed:]
    *dq, dk, dv = rest
    batch, _, num_kv_heads, width = k.shape
    group = q.shape[2] // num_kv_heads
    num_tiles = pl.cdiv(static.num_cols, TILE_KV)
    # Once per tile of keys, q and dout are read and float32 dq is added to.
    bytes_per_head = q.shape[1] * group * (2 * (width + v.shape[3]) + 4 * width)
    together = order.side_by_side(batch * num_kv_heads, bytes_per_head)
    # The first tiles are seen by the most queries: longest first.
    bh, tile = order.decode(lax.axis_index("cta"), num_tiles=num_tiles, heads_together=together)
    b, kv_head = lax.div(bh, np.int32(num_kv_heads)), lax.rem(bh, np.int32(num_kv_heads))
    if packed:
        table, q_ids, kv_ids = packed
        visits = tiles.read_range(table, b, tile)
        ids = (q_ids.at[b], kv_ids.at[b])
    else:
        visits, ids = query_range(tile), None
    per_head = visits.last - visits.first
    walk = _Walk(visits.first, per_head, per_head * group, kv_head, group)
    memory = _memory(scratch)

    def compute(warpgroup):
        col = tile * TILE_KV + warpgroup * hopper.ROWS
        score_mask = functools.partial(_mask, col=col, ids=ids, visits=visits, static=static)
        cols = pl.ds(col, hopper.ROWS)
        outputs = (dk.at[b, cols, kv_head], dv.at[b, cols, kv_head])
        to_dq = dq[0].at[b] if dq else None
        _compute(warpgroup, walk, score_mask, to_dq, outputs, memory, static)

    def load():
        cols = pl.ds(tile * TILE_KV, TILE_KV)
        keys, values = k.at[b, cols, kv_head], v.at[b, cols, kv_head]
        streams = tuple(x.at[b] for x in (q, dout, lse, delta))
        _load(keys, values, streams, walk, memory.tile, memory.ring)

    hopper.specialize(lax.axis_index("warpgroup"), compute, load)


def _load(keys, values, streams, walk, tile, ring):
    q, dout, lse, delta = streams

    @pl.when(walk.num_steps > 0)
    def _():
        for i in range(tile.k_smem.shape[0]):
            chunk = keys.at[:, pl.ds(i * COLS, COLS)]
            plgpu.copy_gmem_to_smem(chunk, tile.k_smem.at[i], tile.kv_ready)
        plgpu.copy_gmem_to_smem(values, tile.v_smem, tile.kv_ready)

    @pl.loop(0, walk.num_steps)
    def _(step):
        slot = hopper.slot_of(step, ring.slots.num_stages)
        head, block = walk.position(step)
        rows = pl.ds(block * BLOCK_Q, BLOCK_Q)
        hopper.wait_until_free(step, slot, ring.slots)
        q_ready, dout_ready = ring.q_ready.at[slot], ring.dout_ready.at[slot]
        plgpu.copy_gmem_to_smem(q.at[rows, head], ring.q_smem.at[slot], q_ready)
        plgpu.copy_gmem_to_smem(lse.at[head, rows], ring.lse_smem.at[slot], q_ready)
        plgpu.copy_gmem_to_smem(dout.at[rows, head], ring.dout_smem.at[slot], dout_ready)
        plgpu.copy_gmem_to_smem(delta.at[head, rows], ring.delta_smem.at[slot], dout_ready)

    hopper.drain(walk.num_steps, ring.slots)


def _compute(warpgroup, walk, score_mask, dq, outputs, memory, static):
    tile, ring, exchange = memory
    own = pl.ds(warpgroup * hopper.ROWS, hopper.ROWS)
    add_dq = functools.partial(_add_dq, dq, walk, warpgroup, tile.k_smem, exchange)
    is_fused = exchange.ds_ready is not None

    @pl.when(walk.num_steps > 0)
    def _():
        plgpu.barrier_wait(tile.kv_ready)

    def accumulate(*sums):
        @pl.loop(0, walk.num_steps)
        def _(step):
            slot = hopper.slot_of(step, ring.slots.num_stages)
            if is_fused:

                @pl.when(step > 0)
                def _():
                    add_dq(step - 1)

            ds = exchange.ds_smem.at[lax.rem(step, np.int32(2)), warpgroup]

            def mask(score):
                return score_mask(score, walk.position(step)[1])

            _step(slot, sums, ds, own, mask, memory, static)
            plgpu.wgmma_wait(0)
            plgpu.barrier_arrive(ring.free.at[slot])

        if is_fused:

            @pl.when(walk.num_steps > 0)
            def _():
                add_dq(walk.num_steps - 1)

        return tuple(acc[...] for acc in sums)

    widths = tile.k_smem.shape[0] * COLS, tile.v_smem.shape[1]
    dk, dv = pl.run_scoped(accumulate, *(hopper.accumulator(hopper.ROWS, n) for n in widths))
    _store(dk * static.scale, dv, outputs, own, tile, both_read=exchange.ds_ready)


def _store(dk, dv, outputs, own, tile, *, both_read):
    dk_out, dv_out = outputs
    if both_read is not None:  # the other warpgroup's last dq reads all of k_smem
        plgpu.barrier_arrive(both_read)
        plgpu.barrier_wait(both_read)
    k_smem, v_smem = tile.k_smem, tile.v_smem.at[own]
    v_smem[...] = dv.astype(v_smem.dtype)
    for i in range(k_smem.shape[0]):
        k_smem[i, own] = dk[:, i * COLS : (i + 1) * COLS].astype(k_smem.dtype)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(v_smem, dv_out, commit_group=False)
    for i in range(k_smem.shape[0]):
        plgpu.copy_smem_to_gmem(k_smem.at[i, own], dk_out.at[:, pl.ds(i * COLS, COLS)])
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _step(slot, sums, ds, own, mask, memory, static):
    """Adds one block of queries to the sums (dk, dv) of a warpgroup's own keys."""
    tile, ring, exchange = memory
    dk_acc, dv_acc = sums
    q, dout = ring.q_smem.at[slot], ring.dout_smem.at[slot]
    plgpu.barrier_wait(ring.q_ready.at[slot])

    def scores(acc):
        for i in range(tile.k_smem.shape[0]):
            plgpu.wgmma(acc, q.at[:, pl.ds(i * COLS, COLS)], tile.k_smem.at[i, own].T)
        lse = plgpu.load(ring.lse_smem.at[slot], layout=blocks.ROW)
        plgpu.barrier_wait(ring.dout_ready.at[slot])
        return acc[...], lse

    block_acc = hopper.accumulator(BLOCK_Q, hopper.ROWS)
    score, lse = pl.run_scoped(scores, block_acc)
    score = mask(score)
    over_cols = functools.partial(lax.broadcast_in_dim, shape=score.shape, broadcast_dimensions=[0])
    prob = jnp.exp2(score * (static.scale * blocks.LOG2_E) - over_cols(lse))
    ds[...] = prob.astype(q.dtype)
    plgpu.commit_smem()

    def products(acc):
        plgpu.wgmma(acc, dout, tile.v_smem.at[own].T)
        plgpu.wgmma(dv_acc, ds.T, dout)
        delta = plgpu.load(ring.delta_smem.at[slot], layout=blocks.ROW)
        return acc[...], delta

    # The probabilities are read back instead of kept: registers limit this kernel.
    dprob, delta = pl.run_scoped(products, block_acc)
    prob = plgpu.load(ds, layout=blocks.MATRIX).astype(jnp.float32)
    plgpu.commit_smem()  # all four warps' products have read the probabilities
    ds[...] = (prob * (dprob - over_cols(delta))).astype(q.dtype)
    plgpu.commit_smem()
    if exchange.ds_ready is not None:
        plgpu.barrier_arrive(exchange.ds_ready)
    plgpu.wgmma(dk_acc, ds.T, q)


def _add_dq(dq, walk, warpgroup, k_smem, exchange, step):
    """Adds ds k of one step; a warpgroup takes every other chunk of 64 columns."""
    plgpu.barrier_wait(exchange.ds_ready)
    head, block = walk.position(step)
    ds = exchange.ds_smem.at[lax.rem(step, np.int32(2))]
    dq_smem = exchange.dq_smem.at[warpgroup]
    num_chunks = k_smem.shape[0]

    def add(chunk):
        def product(acc):
            for i in range(hopper.COMPUTE):
                keys = k_smem.at[chunk, pl.ds(i * hopper.ROWS, hopper.ROWS)]
                plgpu.wgmma(acc, ds.at[i], keys)
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            return acc[...]

        dq_smem[...] = pl.run_scoped(product, hopper.accumulator(BLOCK_Q, COLS))
        plgpu.commit_smem()
        target = dq.at[pl.ds(block * BLOCK_Q, BLOCK_Q), head, pl.ds(chunk * COLS, COLS)]
        plgpu.copy_smem_to_gmem(dq_smem, target, reduction_op="add")

    for pair in range(num_chunks // 2):
        add(2 * pair + warpgroup)
    if num_chunks % 2:
        pl.when(lax.rem(step, np.int32(2)) == warpgroup)(lambda: add(num_chunks - 1))


def _mask(score, block, *, col, ids, visits, static):
    """Hides scores of a block that is not in the fully visible range."""
    if not blocks.may_hide(ids, TILE_KV, static):
        return score
    masked = (block < visits.full_first) | (block >= visits.full_last)
    hide = functools.partial(blocks.mask, score, block * BLOCK_Q, col, ids, static, TILE_KV)
    return lax.cond(masked, hide, lambda: score)
