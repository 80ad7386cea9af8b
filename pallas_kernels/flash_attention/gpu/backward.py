"""Backward attention for Hopper, fused (five products) or deterministic (seven, in two kernels).

    p = 2^(c s - lse)   dv = sum p^T dout   ds = p (dout v^T - delta)   dk = sum ds^T q   dq = ds k
    with s = q k^T, c = scale log2(e), delta = sum_U out dout; dq and dk still lack `scale`.

The kernel that owns keys gives dk and dv. Fused, it adds dq too, in the order in which tiles come
to an end; the deterministic form leaves dq to a second kernel, which owns queries and computes the
scores again.

Letters: B batch, S queries, N query heads, U value width.
"""

import dataclasses

import jax
import jax.numpy as jnp

from pallas_kernels.flash_attention.gpu import backward_keys as keys
from pallas_kernels.flash_attention.gpu import backward_queries as queries


@dataclasses.dataclass(frozen=True)
class Config:
    """Tuned choices: the form, ring depths, keys per block of the deterministic dq kernel."""

    is_fused: bool = True
    num_stages: int = 2
    dq_block_kv: int = 64
    dq_num_stages: int = 2


def backward(q, k, v, q_ids, kv_ids, dout, lse, delta, static, config, is_fused: bool):
    """Returns dq, dk, dv in q's dtype; lse and delta are (B, N, S padded to whole tiles)."""
    if not is_fused:
        dk, dv = keys.gradients(q, k, v, q_ids, kv_ids, dout, lse, delta, None, static, config)
        dq = queries.gradient(q, k, v, q_ids, kv_ids, dout, lse, delta, static, config)
        return dq, dk, dv
    dq_ref = jax.new_ref(jnp.zeros(q.shape, jnp.float32))
    dk, dv = keys.gradients(q, k, v, q_ids, kv_ids, dout, lse, delta, dq_ref, static, config)
    return (jax.freeze(dq_ref) * static.scale).astype(q.dtype), dk, dv
