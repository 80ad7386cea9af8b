"""Attention in plain float32 or wider, the definition every other implementation is tested against.

    s = scale q k^T     out = softmax(s over visible keys) v     max_logits = max of visible s

Letters: B batch, S queries, T keys, N query heads, H key heads, G query heads per key head,
D query and key width, U value width.
"""

import jax
import jax.numpy as jnp

from pallas_kernels import dtypes, maxima


def attention(q_BSND, k_BTHD, v_BTHU, q_ids_BS, kv_ids_BT, *, causal: bool, scale: float):
    """Attention and its per-head max logit; arguments are already checked."""
    batch, num_rows, num_heads, _ = q_BSND.shape
    num_cols, num_kv_heads = k_BTHD.shape[1:3]
    wide = dtypes.wide(q_BSND.dtype)
    q, k, v = (x.astype(wide) for x in (q_BSND, k_BTHD, v_BTHU))
    q_BSHGD = q.reshape(batch, num_rows, num_kv_heads, num_heads // num_kv_heads, -1)
    with jax.default_matmul_precision("highest"):
        score_BHGST = scale * jnp.einsum("BSHGD,BTHD->BHGST", q_BSHGD, k)
        seen = visible(num_rows, num_cols, q_ids_BS, kv_ids_BT, causal=causal)
        score_BHGST = jnp.where(seen, score_BHGST, -jnp.inf)
        # Rows that see nothing get probability 0 everywhere, and gradients of 0 instead of NaN.
        any_seen = seen.any(axis=-1, keepdims=True)
        prob_BHGST = jax.nn.softmax(jnp.where(any_seen, score_BHGST, 0.0), axis=-1) * any_seen
        out_BSHGU = jnp.einsum("BHGST,BTHU->BSHGU", prob_BHGST, v)
    max_logits = maxima.keep_nan(score_BHGST, axis=(-2, -1)).reshape(batch, num_heads)
    out = out_BSHGU.reshape(batch, num_rows, num_heads, -1).astype(q_BSND.dtype)
    return out, jax.lax.stop_gradient(max_logits)


def visible(num_rows, num_cols, q_ids_BS, kv_ids_BT, *, causal: bool):
    """Which scores count: (1 or B, 1, 1, S, T) booleans."""
    row_S1, col_T = jnp.arange(num_rows)[:, None], jnp.arange(num_cols)
    seen = jnp.full((1, 1, 1, num_rows, num_cols), True)
    if causal:
        seen &= col_T <= row_S1 + num_cols - num_rows
    if q_ids_BS is not None:
        seen &= (q_ids_BS[:, :, None] == kv_ids_BT[:, None, :])[:, None, None]
    return seen
