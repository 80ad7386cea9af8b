"""Backward attention for TPUs in one deterministic kernel: five products per block of scores.

    p = 2^(c s - lse)   dv = sum p dout   ds = p (v dout^T - delta)   dk = sum ds q   dq = ds^T k
    with s = k q^T, c = scale log2(e), delta = sum_U out dout; dq and dk are scaled at the end.

A tile of queries owns its dq and meets the blocks of keys that it sees, as in the forward pass;
dk and dv of a whole chunk of keys gather in float32 scratch while all tiles of all query heads of
a key head go by. Longer sequences take one call per chunk, and the dq of the chunks are added. At
192/128 in bfloat16 VMEM holds 4608 bytes per key (keys and values, and dk and dv, each pair in two
buffers of 768, and 1536 in float32), and, as compiled, 11 MiB for the rest.

Letters: B batch, S queries, T keys, N query heads, H key heads, D query and key width, U value
width, C chunks.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.flash_attention import batching
from pallas_kernels.flash_attention.tpu import blocks


def backward(q_BNSD, k_BHTD, v_BHTU, ids, dout_BNSU, lse_BN1S, delta_BN1S, static: blocks.Static):
    """Returns dq, dk and dv in the layouts and dtypes of q, k and v."""
    table = blocks.visit_table(ids, static)
    rows = (q_BNSD, dout_BNSU, lse_BN1S, delta_BN1S)
    if static.num_chunks == 1:
        return _of_chunk(table, 0, rows, (k_BHTD, v_BHTU), ids, q_BNSD.dtype, static)

    def step(dq_BNSD, xs):
        chunk, keys, kv_ids = xs
        chunk_ids = (ids[0], kv_ids) if ids else ()
        dq, dk, dv = _of_chunk(table, chunk, rows, keys, chunk_ids, jnp.float32, static)
        return dq_BNSD + dq, (dk, dv)

    def split(x, axis):  # T -> (C, chunk), C first
        shape = (*x.shape[:axis], static.num_chunks, static.chunk, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    def merge(x):
        return jnp.moveaxis(x, 0, 2).reshape(*x.shape[1:3], -1, x.shape[4])

    index = jnp.arange(static.num_chunks, dtype=jnp.int32)
    keys = (split(k_BHTD, 2), split(v_BHTU, 2))
    xs = (index, keys, split(ids[1], 3) if ids else None)
    dq, (dk, dv) = lax.scan(step, jnp.zeros_like(q_BNSD, jnp.float32), xs)
    return dq.astype(q_BNSD.dtype), merge(dk), merge(dv)


def _of_chunk(table, chunk, rows, keys, ids, dq_dtype, static):
    q_BNSD, (k_BHTD, v_BHTU) = rows[0], keys
    batch, num_heads, _, width = q_BNSD.shape
    num_kv_heads, width_v = v_BHTU.shape[1], v_BHTU.shape[3]
    group = num_heads // num_kv_heads
    grid = (batch, num_kv_heads, group, static.num_tiles)

    def of_tile(b, h, g, i, *_):
        return b, h * group + g, i, 0

    def of_rows(b, h, g, i, *_):
        return b, h * group + g, 0, i

    def of_keys(b, h, g, i, *_):
        return b, h, 0, 0

    row_spec = blocks.spec(1, static.block_q, of_rows)
    key_specs = [blocks.spec(static.chunk, x, of_keys) for x in (width, width_v)]
    tile_specs = [blocks.spec(static.block_q, x, of_tile) for x in (width, width_v)]
    id_specs = [
        blocks.spec(1, static.block_q, lambda b, h, g, i, *_: (b, 0, 0, i)),
        blocks.spec(1, static.chunk, lambda b, h, g, i, *_: (b, 0, 0, 0)),
    ]
    shape = functools.partial(batching.shape_varying_like, q_BNSD)
    return pl.pallas_call(
        functools.partial(_kernel, static=static, num_ids=len(ids)),
        out_shape=(
            shape(q_BNSD.shape, dq_dtype),
            shape(k_BHTD.shape, k_BHTD.dtype),
            shape(v_BHTU.shape, v_BHTU.dtype),
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=grid,
            in_specs=[*tile_specs, row_spec, row_spec, *key_specs, *id_specs[: len(ids)]],
            out_specs=(tile_specs[0], *key_specs),
            scratch_shapes=[
                pltpu.VMEM((static.block_q, width), jnp.float32),
                pltpu.VMEM((static.chunk, width), jnp.float32),
                pltpu.VMEM((static.chunk, width_v), jnp.float32),
            ],
        ),
        **blocks.launch(static, "flash_attention_backward", grid),
    )(table, jnp.reshape(chunk, (1,)), *rows, *keys, *ids)


def _kernel(table, chunk, q, dout, lse, delta, k, v, *rest, static, num_ids):
    ids, (dq, dk, dv, dq_SD, dk_TD, dv_TU) = rest[:num_ids], rest[num_ids:]
    batch, member, tile = (pl.program_id(i) for i in (0, 2, 3))
    is_first = (member == 0) & (tile == 0)
    is_last = (member == pl.num_programs(2) - 1) & (tile == static.num_tiles - 1)
    dq_SD[...] = jnp.zeros_like(dq_SD)

    @pl.when(is_first)
    def _():
        dk_TD[...] = jnp.zeros_like(dk_TD)
        dv_TU[...] = jnp.zeros_like(dv_TU)

    def step(block, rows, hides):
        score_TS = blocks.dot(k[rows, :], q[...], (1, 1))
        if hides:
            score_TS = blocks.hide(score_TS, tile, block, rows, ids, static)
        prob_TS = jnp.exp2(static.scale * blocks.LOG2_E * score_TS - lse[...])
        dprob_TS = blocks.dot(v[rows, :], dout[...], (1, 1))
        dscore_TS = (prob_TS * (dprob_TS - delta[...])).astype(k.dtype)
        dv_TU[rows, :] += blocks.dot(prob_TS.astype(v.dtype), dout[...], (1, 0))
        dk_TD[rows, :] += blocks.dot(dscore_TS, q[...], (1, 0))
        dq_SD[...] += blocks.dot(dscore_TS, k[rows, :], (0, 0))

    visits = blocks.visited(table, batch, tile, static)
    blocks.walk(visits, chunk[0], step, static, is_packed=bool(ids))
    dq[...] = (static.scale * dq_SD[...]).astype(dq.dtype)

    @pl.when(is_last)
    def _():
        dk[...] = (static.scale * dk_TD[...]).astype(dk.dtype)
        dv[...] = dv_TU[...].astype(dv.dtype)
