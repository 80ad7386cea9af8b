"""dq on Hopper, deterministic: one tile of queries meets the keys that it sees.

    p = 2^(c s - lse)   ds = p (dout v^T - delta)   dq = scale sum ds k
    with s = q k^T, c = scale log2(e), delta = sum_U out dout.

Each compute warpgroup owns 64 queries and keeps their dq in registers while blocks of keys and
values stream by in the forward pass's ring.

Letters: B batch, S queries, T keys, N query heads, H key heads, D query and key width, U value
width. Shared memory at D/U 192/128, 64 keys, 2 stages: q 48 KB, dout 32, k 48, v 32.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper
from pallas_kernels.flash_attention.gpu import blocks


def gradient(inputs: blocks.BackwardInputs, static: blocks.Static, config):
    """Returns dq in q's dtype."""
    q = inputs.q
    batch, _, num_heads, _ = q.shape
    num_tiles = pl.cdiv(static.num_rows, blocks.TILE_Q)
    key_visits = blocks.visit_keys(inputs.q_ids, inputs.kv_ids, config.dq_block_kv, static)
    return plgpu.kernel(
        functools.partial(_kernel, static=static, key_range=key_visits.of_tile),
        out_type=jax.ShapeDtypeStruct(q.shape, q.dtype),
        scratch_types=_scratch(q, inputs.v, config, static.interpret),
        grid=(batch * num_heads * num_tiles,),
        grid_names=("cta",),
        kernel_name="flash_attention_backward_q",
        **hopper.launch(static.interpret),
    )(*inputs.arrays, *key_visits.packed)


def _scratch(q, v, config, interpret):
    dtype, width, width_v = q.dtype, q.shape[3], v.shape[3]
    block_kv = config.dq_block_kv
    scratch = blocks.key_ring(config.dq_num_stages, block_kv, width, width_v, dtype) | dict(
        q_smem=hopper.tiled((hopper.COMPUTE, hopper.ROWS, width), dtype),
        dout_smem=hopper.tiled((hopper.COMPUTE, hopper.ROWS, width_v), dtype),
        q_ready=plgpu.Barrier(num_arrivals=2, num_barriers=hopper.COMPUTE),
    )
    if interpret:
        scratch |= dict(stand_in=hopper.tiled((hopper.COMPUTE, hopper.ROWS, block_kv), dtype))
    return scratch


class _Memory(NamedTuple):
    """What a computing warpgroup has of its own; the stand-in is for interpret mode only."""

    q_smem: Any
    dout_smem: Any
    q_ready: Any
    stand_in: Any = None

    def of(self, warpgroup):
        return _Memory(*(None if x is None else x.at[warpgroup] for x in self))


class _Rows(NamedTuple):
    """A warpgroup's rows in device memory."""

    q: Any
    dout: Any
    lse: Any
    delta: Any
    dq: Any


def _kernel(q, k, v, dout, lse, delta, *rest, static, key_range, **scratch):
    *packed, dq = rest
    place = blocks.place(q, k, v, blocks.KeyVisits(key_range, tuple(packed)), static)
    ring = hopper.pick(blocks.KeyRing, scratch)

    def compute(warpgroup):
        row = place.tile * blocks.TILE_Q + warpgroup * hopper.ROWS
        b, own, head = place.batch, pl.ds(row, hopper.ROWS), place.head
        q_rows, dout_rows, dq_rows = (x.at[b, own, head] for x in (q, dout, dq))
        lse_rows, delta_rows = (x.at[b, head, own] for x in (lse, delta))
        rows = _Rows(q_rows, dout_rows, lse_rows, delta_rows, dq_rows)
        _compute(rows, row, place, hopper.pick(_Memory, scratch).of(warpgroup), ring, static)

    def load():
        keys, values = (x.at[place.batch, :, place.kv_head] for x in (k, v))
        blocks.load_keys(keys, values, place.visits, ring)

    hopper.specialize(lax.axis_index("warpgroup"), compute, load)


def _compute(rows, row, place, memory, ring, static):
    q_smem, dout_smem, q_ready, stand_in = memory
    plgpu.copy_gmem_to_smem(rows.q, q_smem, q_ready)
    plgpu.copy_gmem_to_smem(rows.dout, dout_smem, q_ready)
    lse, delta = (plgpu.load(x, layout=blocks.ROW, optimized=False) for x in (rows.lse, rows.delta))
    plgpu.barrier_wait(q_ready)
    visits, block_kv = place.visits, ring.block_kv

    def over_cols(x):
        return lax.broadcast_in_dim(x, (hopper.ROWS, block_kv), [0])

    may_hide = blocks.may_hide(place.ids, block_kv, static)

    def accumulate(dq_acc):
        @pl.loop(visits.first, visits.last)
        def _(block):
            slot = hopper.slot_of(block - visits.first, ring.num_stages)
            block_acc = hopper.accumulator(hopper.ROWS, block_kv)

            def scores(score_acc, dprob_acc):
                plgpu.barrier_wait(ring.k_ready.at[slot])
                plgpu.wgmma(score_acc, q_smem, ring.k_smem.at[slot].T)
                plgpu.barrier_wait(ring.v_ready.at[slot])
                plgpu.wgmma(dprob_acc, dout_smem, ring.v_smem.at[slot].T)
                score = plgpu.wgmma_accumulator_load(score_acc, wait_n=1)
                if may_hide:
                    masked = (block < visits.full_first) | (block >= visits.full_last)

                    corner = row, block * block_kv
                    hide = functools.partial(
                        blocks.mask, score, *corner, place.ids, static, block_kv
                    )
                    score = lax.cond(masked, hide, lambda: score)
                prob = jnp.exp2(score * (static.scale * blocks.LOG2_E) - over_cols(lse))
                return prob, dprob_acc[...]

            prob, dprob = pl.run_scoped(scores, block_acc, block_acc)
            plgpu.barrier_arrive(ring.v_free.at[slot])
            dscore = (prob * (dprob - over_cols(delta))).astype(q_smem.dtype)
            _multiply(dq_acc, dscore, ring.k_smem.at[slot], stand_in)
            plgpu.wgmma_wait(0)
            plgpu.barrier_arrive(ring.k_free.at[slot])

        return dq_acc[...]

    dq_value = pl.run_scoped(accumulate, hopper.accumulator(*q_smem.shape))
    q_smem[...] = (dq_value * static.scale).astype(q_smem.dtype)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(q_smem, rows.dq)
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _multiply(acc, lhs, rhs, stand_in):
    """acc += lhs @ rhs with lhs in registers; interpret mode needs shared memory to stand in."""
    if stand_in is None:
        plgpu.wgmma(acc, lhs, rhs)
    else:
        stand_in[...] = lhs
        plgpu.commit_smem()
        plgpu.wgmma(acc, stand_in, rhs)
