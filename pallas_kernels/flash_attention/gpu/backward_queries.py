"""dq on Hopper, deterministic: one tile of queries meets the keys that it sees.

    p = 2^(c s - lse)   ds = p (dout v^T - delta)   dq = scale sum ds k
    with s = q k^T, c = scale log2(e), delta = sum_U out dout.

Each compute warpgroup owns 64 queries and keeps their dq in registers while blocks of keys and
values stream by in the forward pass's ring.

Letters: B batch, S queries, T keys, N query heads, H key heads, D query and key width, U value
width. Shared memory at D/U 192/128, 64 keys, 2 stages: q 48 KB, dout 32, k 48, v 32.
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

ROWS = fwd.ROWS
_ROW = plgpu.Layout.WGMMA.reduce(1)


def gradient(q, k, v, q_ids, kv_ids, dout, lse, delta, static, config):
    """Returns dq in q's dtype."""
    batch, _, num_heads, _ = q.shape
    num_tiles = pl.cdiv(static.num_rows, fwd.TILE_Q)
    block_kv = config.dq_block_kv
    key_range = functools.partial(
        tiles.key_range,
        tile_q=fwd.TILE_Q,
        block_kv=block_kv,
        num_rows=static.num_rows,
        num_cols=static.num_cols,
        causal=static.causal,
    )
    packed = ()
    if q_ids is not None:
        q_ids, kv_ids = tiles.pad_ids(q_ids, fwd.TILE_Q), tiles.pad_ids(kv_ids, block_kv)
        by_causality = key_range(jnp.arange(num_tiles, dtype=jnp.int32))
        table = tiles.segment_ranges(
            q_ids, kv_ids, tile=fwd.TILE_Q, block=block_kv, ranges=by_causality
        )
        packed = (table, q_ids, kv_ids)
    body = functools.partial(
        _kernel,
        static=static,
        config=config,
        key_range=key_range,
        num_packed=len(packed),
    )
    return plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct(q.shape, q.dtype),
        scratch_types=_scratch(q, v, config, static.interpret),
        grid=(batch * num_heads * num_tiles,),
        kernel_name="flash_attention_backward_q",
        **fwd.launch(static.interpret),
    )(q, k, v, dout, lse, delta, *packed)


def _scratch(q, v, config, interpret):
    dtype, width, width_v = q.dtype, q.shape[3], v.shape[3]
    stages, block_kv = config.dq_num_stages, config.dq_block_kv
    scratch = dict(
        q_smem=fwd.tiled((2, ROWS, width), dtype),
        dout_smem=fwd.tiled((2, ROWS, width_v), dtype),
        k_smem=fwd.tiled((stages, block_kv, width), dtype),
        v_smem=fwd.tiled((stages, block_kv, width_v), dtype),
        q_ready=plgpu.Barrier(num_arrivals=2, num_barriers=2),
        k_ready=plgpu.Barrier(num_arrivals=1, num_barriers=stages),
        v_ready=plgpu.Barrier(num_arrivals=1, num_barriers=stages),
        k_free=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        v_free=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
    )
    if interpret:
        scratch |= dict(stand_in=fwd.tiled((2, ROWS, block_kv), dtype))
    return scratch


def _kernel(q, k, v, dout, lse, delta, *rest, static, config, key_range, num_packed,
            **scratch):  # fmt: skip
    packed, (dq,) = rest[:num_packed], rest[num_packed:]
    place = fwd.place(q, k, v, packed, key_range, static)
    warpgroup = lax.axis_index("warpgroup")

    @pl.when(warpgroup < 2)
    def _():
        plgpu.set_max_registers(240, action="increase")
        row = place.tile * fwd.TILE_Q + warpgroup * ROWS
        rows = pl.ds(row, ROWS)

        def at(x):
            return x.at[place.batch, rows, place.head]

        stats = tuple(x.at[place.batch, place.head, rows] for x in (lse, delta))
        _compute(at(q), at(dout), stats, at(dq), place, warpgroup, row, static, config,
                 **scratch)  # fmt: skip

    @pl.when(warpgroup == 2)
    def _():
        plgpu.set_max_registers(24, action="decrease")
        keys, values = (x.at[place.batch, :, place.kv_head] for x in (k, v))
        fwd.load_keys(keys, values, place.visits, config.dq_block_kv, config.dq_num_stages,
                      **scratch)  # fmt: skip


def _compute(q, dout, stats, dq, place, warpgroup, row, static, config, *, q_smem,
             dout_smem, k_smem, v_smem, q_ready, k_ready, v_ready, k_free,
             v_free, stand_in=None):  # fmt: skip
    q_smem, dout_smem, q_ready = (x.at[warpgroup] for x in (q_smem, dout_smem, q_ready))
    stand_in = None if stand_in is None else stand_in.at[warpgroup]
    plgpu.copy_gmem_to_smem(q, q_smem, q_ready)
    plgpu.copy_gmem_to_smem(dout, dout_smem, q_ready)
    lse, delta = (plgpu.load(x, layout=_ROW, optimized=False) for x in stats)
    plgpu.barrier_wait(q_ready)
    visits, block_kv = place.visits, config.dq_block_kv

    def over_cols(x):
        return lax.broadcast_in_dim(x, (ROWS, block_kv), [0])

    may_hide = static.causal or place.ids is not None or static.num_cols % block_kv != 0

    def accumulate(dq_acc):
        @pl.loop(visits.first, visits.last)
        def _(block):
            slot = lax.rem(block - visits.first, np.int32(config.dq_num_stages))
            block_acc = fwd.accumulator(ROWS, block_kv)

            def scores(score_acc, dprob_acc):
                plgpu.barrier_wait(k_ready.at[slot])
                plgpu.wgmma(score_acc, q_smem, k_smem.at[slot].T)
                plgpu.barrier_wait(v_ready.at[slot])
                plgpu.wgmma(dprob_acc, dout_smem, v_smem.at[slot].T)
                score = plgpu.wgmma_accumulator_load(score_acc, wait_n=1)
                if may_hide:
                    masked = (block < visits.full_first) | (block >= visits.full_last)

                    corner = row, block * block_kv
                    hide = functools.partial(fwd.mask, score, *corner, place.ids, static, block_kv)
                    score = lax.cond(masked, hide, lambda: score)
                prob = jnp.exp2(score * (static.scale * fwd.LOG2_E) - over_cols(lse))
                return prob, dprob_acc[...]

            prob, dprob = pl.run_scoped(scores, block_acc, block_acc)
            plgpu.barrier_arrive(v_free.at[slot])
            dscore = (prob * (dprob - over_cols(delta))).astype(q_smem.dtype)
            _multiply(dq_acc, dscore, k_smem.at[slot], stand_in)
            plgpu.wgmma_wait(0)
            plgpu.barrier_arrive(k_free.at[slot])

        return dq_acc[...]

    dq_value = pl.run_scoped(accumulate, fwd.accumulator(*q_smem.shape))
    q_smem[...] = (dq_value * static.scale).astype(q_smem.dtype)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(q_smem, dq)
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _multiply(acc, lhs, rhs, stand_in):
    """acc += lhs @ rhs with lhs in registers; interpret mode needs shared memory to stand in."""
    if stand_in is None:
        plgpu.wgmma(acc, lhs, rhs)
    else:
        stand_in[...] = lhs
        plgpu.commit_smem()
        plgpu.wgmma(acc, stand_in, rhs)
