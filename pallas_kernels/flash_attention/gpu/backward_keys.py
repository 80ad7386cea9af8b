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

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.flash_attention import tiles
from pallas_kernels.flash_attention.gpu import forward as fwd
from pallas_kernels.flash_attention.gpu import order

ROWS = fwd.ROWS
TILE_KV = 2 * ROWS
BLOCK_Q = 64
COLS = 64  # one dq chunk, the width of a swizzled tile
_MATRIX, _ROW = plgpu.Layout.WGMMA, plgpu.Layout.WGMMA.reduce(1)


def gradients(q, k, v, q_ids, kv_ids, dout, lse, delta, dq_ref, static, config):
    """Returns dk and dv; a dq_ref (B, S, N, D) of float32 is added to, unless None."""
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
    if q_ids is not None:
        q_ids, kv_ids = tiles.pad_ids(q_ids, BLOCK_Q), tiles.pad_ids(kv_ids, TILE_KV)
        by_causality = query_range(jnp.arange(num_tiles, dtype=jnp.int32))
        table = tiles.segment_ranges(
            kv_ids, q_ids, tile=TILE_KV, block=BLOCK_Q, ranges=by_causality
        )
        packed = (table, q_ids, kv_ids)
    inputs = (q, k, v, dout, lse, delta, *packed)
    body = functools.partial(
        _kernel,
        static=static,
        config=config,
        query_range=query_range,
        num_packed=len(packed),
    )
    if dq_ref is not None:
        inputs += (dq_ref,)
    return plgpu.kernel(
        body,
        out_type=(jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)),
        scratch_types=_scratch(q, v, config, fused=dq_ref is not None),
        grid=(batch * num_kv_heads * num_tiles,),
        kernel_name="flash_attention_backward_kv",
        **fwd.launch(static.interpret),
    )(*inputs)


def _scratch(q, v, config, *, fused):
    dtype, width, width_v, stages = q.dtype, q.shape[3], v.shape[3], config.num_stages
    scratch = dict(
        k_smem=fwd.tiled((width // COLS, TILE_KV, COLS), dtype),
        v_smem=fwd.tiled((TILE_KV, width_v), dtype),
        q_smem=fwd.tiled((stages, BLOCK_Q, width), dtype),
        dout_smem=fwd.tiled((stages, BLOCK_Q, width_v), dtype),
        # Probabilities, then ds, of (step parity, warpgroup).
        ds_smem=fwd.tiled((2, 2, BLOCK_Q, ROWS), dtype),
        lse_smem=plgpu.SMEM((stages, BLOCK_Q), jnp.float32),
        delta_smem=plgpu.SMEM((stages, BLOCK_Q), jnp.float32),
        kv_ready=plgpu.Barrier(num_arrivals=width // COLS + 1, num_barriers=1),
        q_ready=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        dout_ready=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        free=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
    )
    if fused:
        scratch |= dict(
            dq_smem=fwd.tiled((2, BLOCK_Q, COLS), jnp.float32),
            ds_ready=plgpu.Barrier(num_arrivals=2, num_barriers=1),
        )
    return scratch


def _kernel(q, k, v, dout, lse, delta, *rest, static, config, query_range, num_packed,
            **scratch):  # fmt: skip
    packed, rest = rest[:num_packed], rest[num_packed:]
    *dq, dk, dv = rest
    batch, _, num_kv_heads, width = k.shape
    group = q.shape[2] // num_kv_heads
    num_tiles = pl.cdiv(static.num_cols, TILE_KV)
    # q and dout are read, float32 dq is added to, once per tile of keys.
    bytes_per_head = q.shape[1] * group * (2 * (width + v.shape[3]) + 4 * width)
    together = order.side_by_side(batch * num_kv_heads, bytes_per_head)
    # The first tiles are seen by most queries: longest first.
    bh, tile = order.decode(lax.axis_index("cta"), num_tiles=num_tiles, heads_together=together)
    b, kv_head = lax.div(bh, np.int32(num_kv_heads)), lax.rem(bh, np.int32(num_kv_heads))
    if packed:
        table, q_ids, kv_ids = packed
        visits = tiles.read_range(table, b, tile)
        ids = (q_ids.at[b], kv_ids.at[b])
    else:
        visits, ids = query_range(tile), None
    per_head = visits.last - visits.first
    num_steps = per_head * group

    def position(step):
        """step -> (query head, block of queries)"""
        if group == 1:
            return kv_head, visits.first + step
        nth = lax.div(step, jnp.maximum(per_head, 1))
        return kv_head * group + nth, visits.first + step - nth * per_head

    warpgroup = lax.axis_index("warpgroup")

    @pl.when(warpgroup < 2)
    def _():
        plgpu.set_max_registers(240, action="increase")
        col = tile * TILE_KV + warpgroup * ROWS
        score_mask = functools.partial(_mask, col=col, ids=ids, visits=visits, static=static)
        cols = pl.ds(col, ROWS)
        outputs = (dk.at[b, cols, kv_head], dv.at[b, cols, kv_head])
        _compute(dq[0].at[b] if dq else None, outputs, num_steps, position, score_mask,
                 warpgroup, static, config, **scratch)  # fmt: skip

    @pl.when(warpgroup == 2)
    def _():
        plgpu.set_max_registers(24, action="decrease")
        cols = pl.ds(tile * TILE_KV, TILE_KV)
        keys, values = k.at[b, cols, kv_head], v.at[b, cols, kv_head]
        streams = tuple(x.at[b] for x in (q, dout, lse, delta))
        _load(keys, values, streams, num_steps, position, config, **scratch)


def _load(keys, values, streams, num_steps, position, config, *, k_smem, v_smem, q_smem,
          dout_smem, lse_smem, delta_smem, kv_ready, q_ready, dout_ready, free,
          **_):  # fmt: skip
    q, dout, lse, delta = streams
    stages = np.int32(config.num_stages)

    @pl.when(num_steps > 0)
    def _():
        for i in range(k_smem.shape[0]):
            chunk = keys.at[:, pl.ds(i * COLS, COLS)]
            plgpu.copy_gmem_to_smem(chunk, k_smem.at[i], kv_ready)
        plgpu.copy_gmem_to_smem(values, v_smem, kv_ready)

    @pl.loop(0, num_steps)
    def _(step):
        slot = lax.rem(step, stages)
        head, block = position(step)
        rows = pl.ds(block * BLOCK_Q, BLOCK_Q)

        @pl.when(step >= stages)
        def _():
            plgpu.barrier_wait(free.at[slot])

        plgpu.copy_gmem_to_smem(q.at[rows, head], q_smem.at[slot], q_ready.at[slot])
        plgpu.copy_gmem_to_smem(lse.at[head, rows], lse_smem.at[slot], q_ready.at[slot])
        plgpu.copy_gmem_to_smem(dout.at[rows, head], dout_smem.at[slot], dout_ready.at[slot])
        plgpu.copy_gmem_to_smem(delta.at[head, rows], delta_smem.at[slot], dout_ready.at[slot])

    @pl.loop(jnp.maximum(0, num_steps - stages), num_steps)
    def _(step):
        plgpu.barrier_wait(free.at[lax.rem(step, stages)])


def _compute(dq, outputs, num_steps, position, score_mask, warpgroup, static, config, *,
             k_smem, v_smem, kv_ready, free, ds_smem, dq_smem=None, ds_ready=None,
             **scratch):  # fmt: skip
    own = pl.ds(warpgroup * ROWS, ROWS)
    stages = np.int32(config.num_stages)
    add_dq = functools.partial(_add_dq, dq, position, warpgroup, k_smem, ds_smem, dq_smem, ds_ready)
    step_fn = functools.partial(
        _step, position=position, score_mask=score_mask, static=static, own=own,
        k_smem=k_smem, v_smem=v_smem, **scratch
    )  # fmt: skip

    @pl.when(num_steps > 0)
    def _():
        plgpu.barrier_wait(kv_ready)

    def accumulate(dk_acc, dv_acc):
        @pl.loop(0, num_steps)
        def _(step):
            slot = lax.rem(step, stages)
            if ds_ready is not None:

                @pl.when(step > 0)
                def _():
                    add_dq(step - 1)

            ds = ds_smem.at[lax.rem(step, np.int32(2)), warpgroup]
            step_fn(step, slot, dk_acc, dv_acc, ds, ds_ready)
            plgpu.wgmma_wait(0)
            plgpu.barrier_arrive(free.at[slot])

        if ds_ready is not None:

            @pl.when(num_steps > 0)
            def _():
                add_dq(num_steps - 1)

        return dk_acc[...], dv_acc[...]

    width, width_v = k_smem.shape[0] * COLS, v_smem.shape[1]
    dk, dv = pl.run_scoped(accumulate, fwd.accumulator(ROWS, width), fwd.accumulator(ROWS, width_v))
    _store(dk * static.scale, dv, outputs, own, k_smem, v_smem, both_read=ds_ready)


def _store(dk, dv, outputs, own, k_smem, v_smem, *, both_read):
    dk_out, dv_out = outputs
    if both_read is not None:  # the other warpgroup's last dq reads all of k_smem
        plgpu.barrier_arrive(both_read)
        plgpu.barrier_wait(both_read)
    v_smem = v_smem.at[own]
    v_smem[...] = dv.astype(v_smem.dtype)
    for i in range(k_smem.shape[0]):
        k_smem[i, own] = dk[:, i * COLS : (i + 1) * COLS].astype(k_smem.dtype)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(v_smem, dv_out, commit_group=False)
    for i in range(k_smem.shape[0]):
        plgpu.copy_smem_to_gmem(k_smem.at[i, own], dk_out.at[:, pl.ds(i * COLS, COLS)])
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _step(step, slot, dk_acc, dv_acc, ds, ds_ready, *, position, score_mask, static, own,
          k_smem, v_smem, q_smem, dout_smem, lse_smem, delta_smem, q_ready,
          dout_ready):  # fmt: skip
    q, dout = q_smem.at[slot], dout_smem.at[slot]
    plgpu.barrier_wait(q_ready.at[slot])

    def scores(acc):
        for i in range(k_smem.shape[0]):
            plgpu.wgmma(acc, q.at[:, pl.ds(i * COLS, COLS)], k_smem.at[i, own].T)
        lse = plgpu.load(lse_smem.at[slot], layout=_ROW)
        plgpu.barrier_wait(dout_ready.at[slot])
        return acc[...], lse

    block_acc = fwd.accumulator(BLOCK_Q, ROWS)
    score, lse = pl.run_scoped(scores, block_acc)
    score = score_mask(score, position(step)[1])
    over_cols = functools.partial(lax.broadcast_in_dim, shape=score.shape, broadcast_dimensions=[0])
    prob = jnp.exp2(score * (static.scale * fwd.LOG2_E) - over_cols(lse))
    ds[...] = prob.astype(q.dtype)
    plgpu.commit_smem()

    def products(acc):
        plgpu.wgmma(acc, dout, v_smem.at[own].T)
        plgpu.wgmma(dv_acc, ds.T, dout)
        delta = plgpu.load(delta_smem.at[slot], layout=_ROW)
        return acc[...], delta

    # The probabilities are read back instead of kept: registers are what limits this kernel.
    dprob, delta = pl.run_scoped(products, block_acc)
    prob = plgpu.load(ds, layout=_MATRIX).astype(jnp.float32)
    plgpu.commit_smem()  # all four warps' products have read the probabilities
    ds[...] = (prob * (dprob - over_cols(delta))).astype(q.dtype)
    plgpu.commit_smem()
    if ds_ready is not None:
        plgpu.barrier_arrive(ds_ready)
    plgpu.wgmma(dk_acc, ds.T, q)


def _add_dq(dq, position, warpgroup, k_smem, ds_smem, dq_smem, ds_ready, step):
    """Adds ds k of one step; a warpgroup takes every other chunk of 64 columns."""
    plgpu.barrier_wait(ds_ready)
    head, block = position(step)
    ds, dq_smem = ds_smem.at[lax.rem(step, np.int32(2))], dq_smem.at[warpgroup]
    num_chunks = k_smem.shape[0]

    def add(chunk):
        def product(acc):
            for i in range(2):
                plgpu.wgmma(acc, ds.at[i], k_smem.at[chunk, pl.ds(i * ROWS, ROWS)])
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            return acc[...]

        dq_smem[...] = pl.run_scoped(product, fwd.accumulator(BLOCK_Q, COLS))
        plgpu.commit_smem()
        target = dq.at[pl.ds(block * BLOCK_Q, BLOCK_Q), head, pl.ds(chunk * COLS, COLS)]
        plgpu.copy_smem_to_gmem(dq_smem, target, reduction_op="add")

    for pair in range(num_chunks // 2):
        add(2 * pair + warpgroup)
    if num_chunks % 2:
        pl.when(lax.rem(step, np.int32(2)) == warpgroup)(lambda: add(num_chunks - 1))


def _mask(score, block, *, col, ids, visits, static):
    """Hides scores of a block that is not in the fully visible range."""
    if not static.causal and ids is None and static.num_cols % TILE_KV == 0:
        return score
    masked = (block < visits.full_first) | (block >= visits.full_last)
    hide = functools.partial(fwd.mask, score, block * BLOCK_Q, col, ids, static, TILE_KV)
    return lax.cond(masked, hide, lambda: score)
