"""The routed experts with rows kept as FP8, and with products of FP8 (`quantize.RECIPES`).

Kept between the passes are Q(x) and Q(h), Q being E4M3 in rows of 128 with a scale each:

    fp8_store   the forward pass is the plain one, bit for bit; backward reads Q(x) and Q(h)
    fp8         h  = Q(x) Qw(w_gate_up)^T            y  = Q(swiglu(h)) Qw(w_down)
                a' = Q(dy) Qw(w_down)^T              dx = Q(dh) Qw(w_gate_up)

Qw has squares of 128. x and dy are quantised once per token, before they are gathered. Gradients of
weights are products of plain numbers: of x and the activation as read back, of dy and dh as they
are. Sums are float32. Rounding has the derivative of the identity. `matrices` makes Qw.

At Kanana-2-30B's widths 11.7 kB per token and layer are kept; the plain layer keeps 22.6 kB.

Letters: T tokens, K experts per token, E experts, F expert width, D hidden width, M = T K rows
sorted by expert.
"""

from functools import partial

import jax.numpy as jnp

from pallas_kernels.grouped_matmul import grouped_matmul, grouped_outer
from pallas_kernels.moe_mlp import matrices as of_experts
from pallas_kernels.moe_mlp import routing, stages
from pallas_kernels.moe_mlp.matrices import Matrices
from pallas_kernels.quantize import Recipe, dequantize


def forward(
    recipe: Recipe,
    implementation,
    clamp,
    x_TD,
    w_gate_up_E2FD,
    w_down_EFD,
    expert_ids_TK,
    weights_TK,
    matrices: Matrices | None,
):
    """Returns y (T, D) and what `backward` reads.

    matrices are those of the weights if they were made before; else they are made here.
    """
    routes = routing.sort_by_expert(expert_ids_TK, w_down_EFD.shape[0])
    token_M = routes.pair_M // expert_ids_TK.shape[1]
    products = {"group_sizes": routes.group_sizes_E, "implementation": implementation}
    to_rows = of_experts.quantizer(recipe.rows, recipe, implementation)
    take = partial(stages.take_rows, implementation=implementation)
    kept_x, kept_weights = to_rows(x_TD), (w_gate_up_E2FD, w_down_EFD)
    if recipe.has_products:
        up, down = matrices or of_experts.of_weights(
            recipe, implementation, x_TD.dtype, *kept_weights
        )
        if matrices is not None:
            kept_weights = tuple(jnp.zeros((0,), w.dtype) for w in kept_weights)
        products["preferred_element_type"] = x_TD.dtype
        x_M = kept_x.take_rows(token_M, take)
        kept_h, act_MF = stages.up_quantized(x_M, up.plain, recipe, clamp=clamp, **products)
        y_MD = of_experts.multiply(act_MF, down, **products)
    else:
        w_gate_up, w_down = (w.astype(x_TD.dtype) for w in (w_gate_up_E2FD, w_down_EFD))
        x_MD = take(x_TD, token_M)
        h_M2F, act_MF = stages.up(x_MD, w_gate_up, clamp=clamp, **products)
        y_MD = grouped_matmul(act_MF, w_down, **products)
        kept_h = to_rows(h_M2F)
    y_TD = routing.sum_of_rows(y_MD, routes.row_TK, weights_TK)
    return y_TD, (kept_x, kept_h, kept_weights, matrices, routes, weights_TK)


def backward(recipe: Recipe, implementation, clamp, residuals, dy_TD):
    """The gradients of `forward`'s arrays, given the gradient of y."""
    kept_x, kept_h, kept_weights, matrices, routes, weights_TK = residuals
    (dtype_up, dtype_down), dtype = (w.dtype for w in kept_weights), dy_TD.dtype
    token_M = routes.pair_M // weights_TK.shape[1]
    products = {"group_sizes": routes.group_sizes_E, "implementation": implementation}
    to_rows = of_experts.quantizer(recipe.rows, recipe, implementation)
    take = partial(stages.take_rows, implementation=implementation)
    dy_MD = take(dy_TD, token_M)
    weight_M = weights_TK.reshape(-1)[routes.pair_M]
    if recipe.has_products:
        up, down = matrices or of_experts.of_weights(recipe, implementation, dtype, *kept_weights)
        product = partial(of_experts.multiply, preferred_element_type=dtype, **products)
        dy = to_rows(dy_TD).take_rows(token_M, take)
        dact_MF = product(dy, down, transpose_rhs=True)
        dh_M2F, dh, weighted_MF, dweight_M = stages.activation_backward_quantized(
            dact_MF, kept_h, weight_M, recipe, clamp=clamp, implementation=implementation
        )
        dx_MD = product(dh, up)
    else:
        w_gate_up_E2FD, w_down_EFD = (w.astype(dtype) for w in kept_weights)
        dh_M2F, weighted_MF, dweight_M = stages.down_backward(
            dy_MD, w_down_EFD, dequantize(kept_h, dtype), weight_M, clamp=clamp, **products
        )
        dx_MD = grouped_matmul(dh_M2F, stages.merge_gate_up(w_gate_up_E2FD), **products)
    dw_down = grouped_outer(weighted_MF, dy_MD, preferred_element_type=dtype_down, **products)
    # Read back before the gather: a token's row is read once.
    x_MD = take(dequantize(kept_x, dtype), token_M)
    dw_E2FD = grouped_outer(dh_M2F, x_MD, preferred_element_type=dtype_up, **products)
    dw_gate_up = dw_E2FD.reshape(dw_E2FD.shape[0], 2, -1, dw_E2FD.shape[2])
    dx_TD = routing.sum_of_rows(dx_MD, routes.row_TK)
    dweights_TK = dweight_M[routes.row_TK].astype(weights_TK.dtype)
    return dx_TD, dw_gate_up, dw_down, None, dweights_TK, None
