"""Backward attention for Hopper, fused (five products) or deterministic (seven, in two kernels).

    p = 2^(c s - lse)   dv = sum p^T dout   ds = p (dout v^T - delta)   dk = sum ds^T q   dq = ds k
    with s = q k^T, c = scale log2(e), delta = sum_U out dout; dq and dk still lack `scale`.

The kernel that owns keys gives dk and dv. In the fused form it also adds up dq, in the order in
which tiles finish; the deterministic form leaves dq to a second kernel, which owns queries and
computes the scores again.

Letters: B batch, S queries, N query heads, U value width.
"""

import dataclasses

import jax
import jax.numpy as jnp

from pallas_kernels.flash_attention.gpu import backward_keys, backward_queries, blocks


@dataclasses.dataclass(frozen=True)
class Config:
    """Tuned choices: the form, ring depths, keys per block of the deterministic dq kernel."""

    is_fused: bool = True
    num_stages: int = 2
    dq_block_kv: int = 64
    dq_num_stages: int = 2


def backward(inputs: blocks.BackwardInputs, static: blocks.Static, config: Config, is_fused: bool):
    """Returns dq, dk, dv in q's dtype."""
    if not is_fused:
        dk, dv = backward_keys.gradients(inputs, None, static, config)
        return backward_queries.gradient(inputs, static, config), dk, dv
    q = inputs.q
    dq_ref = jax.new_ref(jnp.zeros(q.shape, jnp.float32))
    dk, dv = backward_keys.gradients(inputs, dq_ref, static, config)
    return (jax.freeze(dq_ref) * static.scale).astype(q.dtype), dk, dv
