"""The routed experts of a mixture-of-experts layer as one differentiable function.

    y[t] = sum_k weights[t, k] expert[ids[t, k]](x[t])
    expert[e](x) = w_down[e]^T (silu(w_gate[e] x) * (w_up[e] x))

No token is dropped, whatever the load of an expert.

Letters: T tokens, K experts per token, E experts, F expert width, D hidden width, M = T K rows.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.grouped_matmul import Implementation, grouped_matmul


def moe_mlp(
    x_TD,
    w_gate_up_E2FD,
    w_down_EFD,
    expert_ids_TK,
    weights_TK,
    *,
    implementation: Implementation = "auto",
) -> jax.Array:
    """Applies to each token its experts' SwiGLU, weighted, and sums; (T, D) in x's dtype.

    w_gate_up (E, 2, F, D) holds the gate first and the up projection second; w_down is (E, F, D);
    expert_ids (T, K) are int32 in [0, E); weights (T, K) are float32 and get their exact gradient.
    implementation names that of grouped_matmul. Raises ValueError on shapes that do not fit.
    """
    _check(x_TD, w_gate_up_E2FD, w_down_EFD, expert_ids_TK, weights_TK)
    num_experts, _, width, hidden = w_gate_up_E2FD.shape
    num_tokens, experts_per_token = expert_ids_TK.shape
    expert_M = expert_ids_TK.reshape(-1)
    order_M = jnp.argsort(expert_M, stable=True)
    group_sizes_E = jnp.bincount(expert_M, length=num_experts).astype(jnp.int32)
    x_MD = x_TD[order_M // experts_per_token]
    gate_up_MF = grouped_matmul(
        x_MD,
        w_gate_up_E2FD.reshape(num_experts, 2 * width, hidden),
        group_sizes_E,
        transpose_rhs=True,
        implementation=implementation,
    )
    gate_MF, up_MF = jnp.split(gate_up_MF, 2, axis=1)
    act_MF = jax.nn.silu(gate_MF.astype(jnp.float32)) * up_MF.astype(jnp.float32)
    out_MD = grouped_matmul(
        act_MF.astype(x_TD.dtype), w_down_EFD, group_sizes_E, implementation=implementation
    )
    weighted_MD = out_MD.astype(jnp.float32) * weights_TK.reshape(-1)[order_M][:, None]
    y_TD = jnp.zeros((num_tokens, hidden), jnp.float32)
    return y_TD.at[order_M // experts_per_token].add(weighted_MD).astype(x_TD.dtype)


def _check(x, w_gate_up, w_down, expert_ids, weights):
    shapes = [tuple(a.shape) for a in (x, w_gate_up, w_down, expert_ids, weights)]
    if w_gate_up.ndim != 4 or x.ndim != 2 or expert_ids.ndim != 2:
        raise ValueError(f"expected (T, D), (E, 2, F, D), (E, F, D), (T, K) twice; got {shapes}.")
    num_experts, _, width, hidden = w_gate_up.shape
    tokens = x.shape[0]
    top_k = expert_ids.shape[1]
    expected = [
        (tokens, hidden),
        (num_experts, 2, width, hidden),
        (num_experts, width, hidden),
        (tokens, top_k),
        (tokens, top_k),
    ]
    if shapes != expected:
        raise ValueError(
            "expected x (T, D), w_gate_up (E, 2, F, D), w_down (E, F, D), expert_ids (T, K) and "
            f"weights (T, K), here {expected}; got {shapes}."
        )
    if expert_ids.dtype != jnp.int32 or weights.dtype != jnp.float32:
        raise ValueError(
            "expert_ids must be int32 and weights float32 (the router decides in float32), got "
            f"{expert_ids.dtype} and {weights.dtype}; cast them."
        )
