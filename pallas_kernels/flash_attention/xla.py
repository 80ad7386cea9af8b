"""Attention tile by tile in plain XLA, with memory linear in the sequence length.

    s = scale q k^T + mask     m = max_T s     l = sum_T exp(s - m)     out = exp(s - m) v / l

Forward folds one tile of scores at a time into (m, l, out); backward recomputes every tile from
q, k and the saved log-sum-exp m + log l (arXiv:2205.14135, 2307.08691).

Letters: B batch, S queries, T keys, N query heads, H key heads, G query heads per key head,
D query and key width, U value width.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import dtypes, maxima

# Short sequences are unrolled with exact static slices, so that causal work is near half and
# nothing is padded; longer ones scan equal tiles, which bounds the program and stays in cache.
# Sizes are the fastest of 64 to 512 on a two-core CPU at lengths 256, 1024 and 4096.
MAX_UNROLLED_LENGTH = 512
UNROLLED_ROWS = 64
SCANNED_LENGTH = 256


class Tile(NamedTuple):
    """Rows [row, row + num_rows) of queries against cols [col, col + num_cols) of keys."""

    row: int | jax.Array
    num_rows: int
    col: int | jax.Array
    num_cols: int


class _Static(NamedTuple):
    causal: bool
    scale: float


def attention(q_BSND, k_BTHD, v_BTHU, q_ids_BS, kv_ids_BT, *, causal: bool, scale: float):
    """Attention and its per-head max logit; arguments are already checked."""
    return _attention(_Static(causal, scale), q_BSND, k_BTHD, v_BTHU, q_ids_BS, kv_ids_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(static, q, k, v, q_ids, kv_ids):
    return _attention_fwd(static, q, k, v, q_ids, kv_ids)[0]


def _attention_fwd(static, q, k, v, q_ids, kv_ids):
    forward = functools.partial(_forward, static)
    out, lse, max_logits = _by_platform(forward, q, k, v, q_ids, kv_ids)
    return (out, max_logits), (q, k, v, q_ids, kv_ids, out, lse)


def _attention_bwd(static, residuals, cotangents):
    dout, _ = cotangents  # max_logits is a statistic: it has no gradient
    dq, dk, dv = _by_platform(functools.partial(_backward, static), *residuals, dout)
    return dq, dk, dv, None, None


_attention.defvjp(_attention_fwd, _attention_bwd)


def _by_platform(fn, q, *args):
    if q.dtype == dtypes.wide(q.dtype):
        return fn(q, *args, compute_dtype=q.dtype)
    # CPUs multiply 16-bit floats by converting them, anew for every tile; convert once instead.
    return jax.lax.platform_dependent(
        q,
        *args,
        cpu=functools.partial(fn, compute_dtype=jnp.float32),
        default=functools.partial(fn, compute_dtype=q.dtype),
    )


def _forward(static, q, k, v, q_ids, kv_ids, *, compute_dtype):
    num_rows, num_cols = q.shape[1], k.shape[1]
    tiles, rows, cols = _tiles(num_rows, num_cols, static.causal)
    mask = _mask_fn(static, num_rows, num_cols, _pad(q_ids, rows, 1), _pad(kv_ids, cols, 1))
    dot = _dot_fn(compute_dtype)
    q_BHGSD = _pad(_split_heads(q, k.shape[2]).astype(compute_dtype), rows, 3)
    k_BHTD, v_BHTU = (_pad(_heads_first(x).astype(compute_dtype), cols, 2) for x in (k, v))

    def step(state, tile):
        score = static.scale * dot("BHGSD,BHTD->BHGST", _rows(q_BHGSD, tile), _cols(k_BHTD, tile))
        score = jnp.where(mask(tile), score, -jnp.inf)
        old_max, old_sum, old_out = (_rows(x, tile) for x in state)
        new_max = jnp.maximum(old_max, score.max(axis=-1, keepdims=True))
        finite_max = jnp.where(new_max == -jnp.inf, 0.0, new_max)  # rows that saw nothing yet
        shrink = jnp.exp(old_max - finite_max)
        prob = jnp.exp(score - finite_max)
        new_sum = old_sum * shrink + prob.sum(axis=-1, keepdims=True)
        pv = dot("BHGST,BHTU->BHGSU", prob.astype(compute_dtype), _cols(v_BHTU, tile))
        new = new_max, new_sum, old_out * shrink + pv
        return tuple(_set_rows(x, y, tile) for x, y in zip(state, new, strict=True))

    zero = jnp.zeros_like(q_BHGSD[..., :1], dtypes.wide(compute_dtype))
    init = zero - jnp.inf, zero, jnp.broadcast_to(zero, (*zero.shape[:-1], v.shape[-1]))
    row_max, row_sum, out = (x[..., :num_rows, :] for x in _loop(step, init, tiles))
    row_sum = jnp.where(row_sum == 0.0, 1.0, row_sum)
    lse = jnp.where(row_max == -jnp.inf, 0.0, row_max) + jnp.log(row_sum)
    per_head = q.shape[0], q.shape[2]
    max_logits = row_max.max(axis=(-2, -1), initial=-jnp.inf).reshape(per_head)
    max_logits = maxima.of_rows(max_logits, lse.reshape(*per_head, num_rows))
    return _join_heads(out / row_sum).astype(q.dtype), lse, max_logits


def _backward(static, q, k, v, q_ids, kv_ids, out, lse, dout, *, compute_dtype):
    num_rows, num_cols = q.shape[1], k.shape[1]
    tiles, rows, cols = _tiles(num_rows, num_cols, static.causal)
    mask = _mask_fn(static, num_rows, num_cols, _pad(q_ids, rows, 1), _pad(kv_ids, cols, 1))
    dot = _dot_fn(compute_dtype)
    split = functools.partial(_split_heads, num_kv_heads=k.shape[2])
    # The row sum of prob * dprob, known without forming either.
    wide = dtypes.wide(compute_dtype)
    delta = (split(out).astype(wide) * split(dout).astype(wide)).sum(-1, keepdims=True)
    lse, delta = _pad(lse, rows, 3), _pad(delta, rows, 3)
    q_BHGSD, dout_BHGSU = (_pad(split(x).astype(compute_dtype), rows, 3) for x in (q, dout))
    k_BHTD, v_BHTU = (_pad(_heads_first(x).astype(compute_dtype), cols, 2) for x in (k, v))

    def step(state, tile):
        dq, dk, dv = state
        q_t, dout_t = _rows(q_BHGSD, tile), _rows(dout_BHGSU, tile)
        k_t, v_t = _cols(k_BHTD, tile), _cols(v_BHTU, tile)
        score = static.scale * dot("BHGSD,BHTD->BHGST", q_t, k_t)
        prob = jnp.exp(jnp.where(mask(tile), score, -jnp.inf) - _rows(lse, tile))
        dprob = dot("BHGSU,BHTU->BHGST", dout_t, v_t)
        dscore = (static.scale * prob * (dprob - _rows(delta, tile))).astype(compute_dtype)
        dq_t = dot("BHGST,BHTD->BHGSD", dscore, k_t)
        dk_t = dot("BHGST,BHGSD->BHTD", dscore, q_t)
        dv_t = dot("BHGST,BHGSU->BHTU", prob.astype(compute_dtype), dout_t)
        return (
            _set_rows(dq, _rows(dq, tile) + dq_t, tile),
            _set_cols(dk, _cols(dk, tile) + dk_t, tile),
            _set_cols(dv, _cols(dv, tile) + dv_t, tile),
        )

    init = tuple(jnp.zeros_like(x, wide) for x in (q_BHGSD, k_BHTD, v_BHTU))
    dq, dk, dv = _loop(step, init, tiles)
    dk, dv = (jnp.swapaxes(x[:, :, :num_cols], 1, 2).astype(k.dtype) for x in (dk, dv))
    return _join_heads(dq[..., :num_rows, :]).astype(q.dtype), dk, dv


def _tiles(num_rows, num_cols, causal):
    """The tiles that hold any visible score, and the padded numbers of rows and columns."""
    if max(num_rows, num_cols) <= MAX_UNROLLED_LENGTH:
        return _visible(num_rows, num_cols, UNROLLED_ROWS, num_cols, causal), num_rows, num_cols
    size = SCANNED_LENGTH
    tiles = _visible(num_rows, num_cols, size, size, causal)
    tiles = [tile._replace(num_rows=size, num_cols=size) for tile in tiles]
    return tiles, -(-num_rows // size) * size, -(-num_cols // size) * size


def _visible(num_rows, num_cols, tile_rows, tile_cols, causal):
    tiles = []
    for row in range(0, num_rows, tile_rows):
        last_row = min(row + tile_rows, num_rows)
        end = min(num_cols, last_row + num_cols - num_rows) if causal else num_cols
        for col in range(0, end, tile_cols):
            tiles.append(Tile(row, last_row - row, col, min(col + tile_cols, end) - col))
    return tiles


def _loop(step, init, tiles):
    if len(tiles) <= MAX_UNROLLED_LENGTH // UNROLLED_ROWS:
        return functools.reduce(step, tiles, init)
    shape = tiles[0]
    starts = jnp.array([(t.row, t.col) for t in tiles], jnp.int32)

    def body(state, start):
        return step(state, shape._replace(row=start[0], col=start[1])), None

    return jax.lax.scan(body, init, starts)[0]


def _mask_fn(static, num_rows, num_cols, q_ids, kv_ids):
    def mask(tile):
        row = tile.row + jnp.arange(tile.num_rows)[:, None]
        col = tile.col + jnp.arange(tile.num_cols)
        seen = col < num_cols
        if static.causal:
            seen &= col <= row + num_cols - num_rows
        if q_ids is not None:
            q_t = jax.lax.dynamic_slice_in_dim(q_ids, tile.row, tile.num_rows, 1)
            kv_t = jax.lax.dynamic_slice_in_dim(kv_ids, tile.col, tile.num_cols, 1)
            seen &= (q_t[:, :, None] == kv_t[:, None, :])[:, None, None]
        return seen

    return mask


def _dot_fn(compute_dtype):
    # float32 inputs ask for float32 products; 16-bit inputs are exact in one pass of any unit.
    wide = dtypes.wide(compute_dtype)
    precision = jax.lax.Precision.HIGHEST if compute_dtype == wide else None
    return functools.partial(jnp.einsum, precision=precision, preferred_element_type=wide)


def _rows(x_BHGSX, tile):
    return jax.lax.dynamic_slice_in_dim(x_BHGSX, tile.row, tile.num_rows, 3)


def _set_rows(x_BHGSX, y, tile):
    return jax.lax.dynamic_update_slice_in_dim(x_BHGSX, y, tile.row, 3)


def _cols(x_BHTX, tile):
    return jax.lax.dynamic_slice_in_dim(x_BHTX, tile.col, tile.num_cols, 2)


def _set_cols(x_BHTX, y, tile):
    return jax.lax.dynamic_update_slice_in_dim(x_BHTX, y, tile.col, 2)


def _heads_first(x_BTHX):
    return jnp.swapaxes(x_BTHX, 1, 2)


def _split_heads(x_BSNX, num_kv_heads):
    x_BNSX = _heads_first(x_BSNX)
    batch, heads, *rest = x_BNSX.shape
    return x_BNSX.reshape(batch, num_kv_heads, heads // num_kv_heads, *rest)


def _join_heads(x_BHGSX):
    batch, kv_heads, group, *rest = x_BHGSX.shape
    return jnp.swapaxes(x_BHGSX.reshape(batch, kv_heads * group, *rest), 1, 2)


def _pad(x, size, dim):
    if x is None or x.shape[dim] == size:
        return x
    widths = [(0, size - n if i == dim else 0) for i, n in enumerate(x.shape)]
    return jnp.pad(x, widths)
