"""Forward attention for TPUs: a tile of queries meets the blocks of keys that it sees.

    s = k q^T      m = max(m, s)      p = 2^(c (s - m))      out = sum v^T p / sum p
    with c = scale log2(e), applied in float32 after m is subtracted: the maximum is exact, and
    large logits lose nothing.

Keys and values of a head stay in VMEM while all of its tiles of queries go by; a sequence that is
too long for that is taken in chunks, and m, the sum and out wait in scratch. At 192/128 in bfloat16
VMEM holds two buffers of 768 bytes per key (192 takes 256 lanes), and 6 MiB as compiled for scores
in flight, queries and out.

Letters: B batch, S queries, T keys, N query heads, H key heads, D query and key width, U value
width.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.flash_attention import batching
from pallas_kernels.flash_attention.tpu import blocks


def forward(q_BNSD, k_BHTD, v_BHTU, ids, static: blocks.Static):
    """Returns out (B, N, S, U), base-2 log-sum-exp (B, N, 1, S) and max logits (B, N).

    Lengths are padded to whole tiles and chunks; `ids` is () or (q_ids_B11S, kv_ids_B11T).
    """
    batch, num_heads, length, width = q_BNSD.shape
    group, width_v = num_heads // k_BHTD.shape[1], v_BHTU.shape[3]
    block_q, lanes = static.block_q, blocks.LANES
    grid = (batch, num_heads, static.num_tiles, static.num_chunks)

    def of_tile(b, n, i, j, table):
        return b, n, i, 0

    def chunk(b, i, j, table):
        # A chunk that the tile does not visit is not fetched: the one before it or after it stays.
        visits = blocks.visited(table, b, i, static)
        last = jnp.maximum(visits.last - 1, visits.first)
        return jnp.clip(j, *(lax.div(x, static.blocks_per_chunk) for x in (visits.first, last)))

    def of_keys(b, n, i, j, table):
        return b, lax.div(n, group), chunk(b, i, j, table), 0

    in_specs = [
        blocks.spec(block_q, width, of_tile),
        blocks.spec(static.chunk, width, of_keys),
        blocks.spec(static.chunk, width_v, of_keys),
        blocks.spec(1, block_q, lambda b, n, i, j, table: (b, 0, 0, i)),
        blocks.spec(1, static.chunk, lambda b, n, i, j, table: (b, 0, 0, chunk(b, i, j, table))),
    ]
    shape = functools.partial(batching.shape_varying_like, q_BNSD)
    out, lse, top = pl.pallas_call(
        functools.partial(_kernel, static=static, num_ids=len(ids)),
        out_shape=(
            shape((batch, num_heads, length, width_v), q_BNSD.dtype),
            shape((batch, num_heads, 1, length), jnp.float32),
            shape((batch, num_heads, 1, lanes), jnp.float32),
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=in_specs[: 3 + len(ids)],
            out_specs=(
                blocks.spec(block_q, width_v, of_tile),
                blocks.spec(1, block_q, lambda b, n, i, j, table: (b, n, 0, i)),
                blocks.spec(1, lanes, lambda b, n, i, j, table: (b, n, 0, 0)),
            ),
            scratch_shapes=[pltpu.VMEM((rows, block_q), jnp.float32) for rows in (width_v, 1, 1)],
        ),
        **blocks.launch(static, "flash_attention_forward", grid),
    )(blocks.visit_table(ids, static), q_BNSD, k_BHTD, v_BHTU, *ids)
    return out, lse, top[:, :, 0, 0]


def _kernel(table, q, k, v, *rest, static, num_ids):
    ids, (out, lse, top, acc_US, max_1S, sum_1S) = rest[:num_ids], rest[num_ids:]
    batch, tile, chunk = (pl.program_id(i) for i in (0, 2, 3))
    c = static.scale * blocks.LOG2_E

    @pl.when(chunk == 0)
    def _():
        acc_US[...] = jnp.zeros_like(acc_US)
        max_1S[...] = jnp.full_like(max_1S, blocks.HIDDEN)
        sum_1S[...] = jnp.zeros_like(sum_1S)

    def step(block, rows, hides):
        score_TS = blocks.dot(k[rows, :], q[...], (1, 1))
        if hides:
            score_TS = blocks.hide(score_TS, tile, block, rows, ids, static)
        old_max_1S = max_1S[...]
        new_max_1S = jnp.maximum(old_max_1S, score_TS.max(axis=0, keepdims=True))
        shrink_1S = jnp.exp2(c * (old_max_1S - new_max_1S))
        prob_TS = jnp.exp2(c * (score_TS - new_max_1S))
        max_1S[...] = new_max_1S
        sum_1S[...] = sum_1S[...] * shrink_1S + prob_TS.sum(axis=0, keepdims=True)
        pv_US = blocks.dot(v[rows, :], prob_TS.astype(v.dtype), (0, 0))
        acc_US[...] = acc_US[...] * shrink_1S + pv_US

    visits = blocks.visited(table, batch, tile, static)
    blocks.walk(visits, chunk, step, static, is_packed=bool(ids))

    @pl.when(chunk == static.num_chunks - 1)
    def _():
        # On some devices a NaN leaves the maximum as it was, but not the sum.
        nothing_1S = (max_1S[...] == blocks.HIDDEN) & ~jnp.isnan(sum_1S[...])
        out[...] = jnp.where(nothing_1S, 0.0, acc_US[...] / sum_1S[...]).T.astype(out.dtype)
        # +inf makes the probabilities of such a row 0 in the backward pass.
        lse_1S = c * max_1S[...] + blocks.LOG2_E * jnp.log(sum_1S[...])
        lse[...] = jnp.where(nothing_1S, jnp.inf, lse_1S)
        _keep_top(top, jnp.where(nothing_1S, -jnp.inf, max_1S[...]), tile, static)


def _keep_top(top, max_1S, tile, static):
    row_1S = tile * static.block_q + lax.broadcasted_iota(jnp.int32, max_1S.shape, 1)
    max_1S = jnp.where(row_1S < static.num_rows, max_1S, -jnp.inf)

    @pl.when(tile == 0)
    def _():
        top[...] = jnp.full_like(top, -jnp.inf)

    top[...] = jnp.maximum(top[...], static.scale * max_1S.max(axis=1, keepdims=True))
