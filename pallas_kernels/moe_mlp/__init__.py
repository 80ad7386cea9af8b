"""The routed experts of a mixture-of-experts layer as one differentiable function.

    y[t] = sum_k weights[t, k] expert[ids[t, k]](x[t])
    expert[e](x) = w_down[e]^T swiglu(w_gate[e] x, w_up[e] x)          swiglu(g, u) = silu(g) u

No token is dropped, whatever the load of an expert. The backward pass keeps x, the pre-activation
h and a few integers per row (SonicMoE, arXiv:2512.14080): gathered rows and activations
are recomputed, and the router's gradient is found without the experts' outputs,

    dweights[t, k] = <dy[t], w_down^T a> = <w_down dy[t], a>

At Kanana-2-30B's widths in bfloat16 (D 2048, F 768, K 6) x and h take 2 D + 4 K F bytes per token,
22.6 kB with the integers.

Letters: T tokens, K experts per token, E experts, F expert width, D hidden width, M = T K rows
sorted by expert.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import dtypes, manual_axes
from pallas_kernels.grouped_matmul import grouped_matmul, grouped_outer
from pallas_kernels.moe_mlp import activation, quantized, routing, stages
from pallas_kernels.moe_mlp.matrices import Matrices
from pallas_kernels.quantize import Precision, Recipe
from pallas_kernels.quantize import recipe as find_recipe
from pallas_kernels.selection import Implementation

# With at most this many rows per expert, few experts have two rows: a look-up reads little twice,
# and tiles of rows would be empty.
FEW_ROWS_PER_EXPERT = 0.5


def moe_mlp(
    x_TD,
    w_gate_up_E2FD,
    w_down_EFD,
    expert_ids_TK,
    weights_TK,
    *,
    clamp: float | None = None,
    precision: Precision = "full",
    matrices: Matrices | None = None,
    implementation: Implementation = "auto",
) -> jax.Array:
    """Sums the weighted SwiGLU outputs of each token's experts: (T, D) in x's dtype.

    w_gate_up (E, 2, F, D) holds the gate first and the up projection second; w_down is (E, F, D);
    expert_ids (T, K) are integers in [0, E); weights (T, K) are float32 (or float64) and get their
    exact gradient.
    clamp clips the inputs of swiglu (see `activation`); None: nothing is clipped.
    Products are in x's dtype. Expert weights of another dtype are cast to it, and their gradients
    are rounded to the weights' own dtype only: float32 weights get unrounded float32 gradients.
    precision says what is rounded to FP8 before the products (see `quantized`); "full": nothing is.
    matrices is what `matrices.quantize_experts` made of these weights with this precision, in x's
    dtype: the weights are then not quantised again. Gradients go to the weights.
    Results and gradients repeat bit for bit where those of grouped_matmul do. implementation names
    the one of grouped_matmul; when rows are few and nothing is differentiated, "auto" instead looks
    up the matrices of each row, unless products are in FP8. Raises ValueError on shapes or dtypes
    that do not fit.
    """
    arrays = x_TD, w_gate_up_E2FD, w_down_EFD, expert_ids_TK, weights_TK
    arrays = [jnp.asarray(array) for array in arrays]
    _check(*arrays)
    _check_matrices(matrices, precision, *arrays[1:3])
    arrays[3] = arrays[3].astype(jnp.int32)
    options = _Options(implementation, clamp, find_recipe(precision))
    leaves, structure = jax.tree.flatten(matrices)
    aligned = manual_axes.align(*arrays, *leaves)
    return _moe_mlp(options, *aligned[:5], jax.tree.unflatten(structure, aligned[5:]))


class _Options(NamedTuple):
    """The static side of the layer and of its derivative."""

    implementation: str
    clamp: float | None
    recipe: Recipe | None


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _moe_mlp(options, x_TD, w_gate_up_E2FD, w_down_EFD, expert_ids_TK, weights_TK, matrices):
    few_rows = FEW_ROWS_PER_EXPERT * w_down_EFD.shape[0]
    is_plain = options.recipe is None or not options.recipe.has_products
    arrays = x_TD, w_gate_up_E2FD, w_down_EFD, expert_ids_TK, weights_TK
    if options.implementation == "auto" and expert_ids_TK.size <= few_rows and is_plain:
        return _look_up(options.clamp, *arrays)
    return _forward(options, *arrays, matrices)[0]


def _forward(options, x_TD, w_gate_up_E2FD, w_down_EFD, expert_ids_TK, weights_TK, matrices):
    implementation, clamp, recipe = options
    if recipe:
        arrays = x_TD, w_gate_up_E2FD, w_down_EFD, expert_ids_TK, weights_TK
        return quantized.forward(recipe, implementation, clamp, *arrays, matrices)
    routes = routing.sort_by_expert(expert_ids_TK, w_down_EFD.shape[0])
    token_M = routes.pair_M // expert_ids_TK.shape[1]
    products = {"group_sizes": routes.group_sizes_E, "implementation": implementation}
    w_gate_up = w_gate_up_E2FD.astype(x_TD.dtype)
    x_MD = stages.take_rows(x_TD, token_M, implementation)
    h_M2F, act_MF = stages.up(x_MD, w_gate_up, clamp=clamp, **products)
    y_MD = grouped_matmul(act_MF, w_down_EFD.astype(x_TD.dtype), **products)
    y_TD = routing.sum_of_rows(y_MD, routes.row_TK, weights_TK)
    return y_TD, (x_TD, h_M2F, w_gate_up_E2FD, w_down_EFD, routes, weights_TK)


def _look_up(clamp, x_TD, w_gate_up_E2FD, w_down_EFD, expert_ids_TK, weights_TK):
    """Each pair reads its expert's matrices once: decoding is as fast as memory.

    Products are written as sums, which compilers fuse with the look-up; a product would copy the
    matrices.
    """
    is_here_TK = expert_ids_TK < w_down_EFD.shape[0]
    wide = dtypes.wide(x_TD.dtype)
    x_T11D = x_TD.astype(wide)[:, None, None, None]
    h_TK2F = (w_gate_up_E2FD[expert_ids_TK].astype(wide) * x_T11D).sum(axis=-1)
    act_TKF = activation.swiglu(h_TK2F[:, :, 0], h_TK2F[:, :, 1], clamp)
    act_TKF *= jnp.where(is_here_TK, weights_TK, 0.0)[..., None]
    y_TKFD = w_down_EFD[expert_ids_TK].astype(wide) * act_TKF[..., None]
    # Two sums: for one over both axes XLA:GPU makes blocks that read too little (25 us, not 17, for
    # six experts of Kanana-2-30B on an H100).
    y_TKD = jax.lax.optimization_barrier(y_TKFD.sum(axis=2))
    return y_TKD.sum(axis=1).astype(x_TD.dtype)


def _backward(options, residuals, dy_TD):
    implementation, clamp, recipe = options
    # Without a barrier XLA finds in the forward pass what is recomputed here, and keeps that.
    residuals, dy_TD = jax.lax.optimization_barrier((residuals, dy_TD))
    if recipe:
        return quantized.backward(recipe, implementation, clamp, residuals, dy_TD)
    x_TD, h_M2F, w_gate_up_E2FD, w_down_EFD, routes, weights_TK = residuals
    token_M = routes.pair_M // weights_TK.shape[1]
    products = {"group_sizes": routes.group_sizes_E, "implementation": implementation}
    w_gate_up, w_down = (w.astype(x_TD.dtype) for w in (w_gate_up_E2FD, w_down_EFD))

    dy_MD = stages.take_rows(dy_TD, token_M, implementation)
    weight_M = weights_TK.reshape(-1)[routes.pair_M]
    dh_M2F, weighted_MF, dweight_M = stages.down_backward(
        dy_MD, w_down, h_M2F, weight_M, clamp=clamp, **products
    )
    dw_down = grouped_outer(weighted_MF, dy_MD, preferred_element_type=w_down_EFD.dtype, **products)
    dx_MD = grouped_matmul(dh_M2F, stages.merge_gate_up(w_gate_up), **products)
    x_MD = stages.take_rows(x_TD, token_M, implementation)
    dw_gate_up = grouped_outer(
        dh_M2F, x_MD, preferred_element_type=w_gate_up_E2FD.dtype, **products
    )
    dx_TD = routing.sum_of_rows(dx_MD, routes.row_TK)
    dw_gate_up = dw_gate_up.reshape(w_gate_up_E2FD.shape)
    dweights_TK = dweight_M[routes.row_TK].astype(weights_TK.dtype)
    return dx_TD, dw_gate_up, dw_down, None, dweights_TK, None


_moe_mlp.defvjp(_forward, _backward)


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
    is_wide = weights.dtype in (jnp.float32, jnp.float64)
    if not jnp.issubdtype(expert_ids.dtype, jnp.integer) or not is_wide:
        raise ValueError(
            "expert_ids must be integers and weights float32 (the router decides in float32), got "
            f"{expert_ids.dtype} and {weights.dtype}; cast them."
        )


def _check_matrices(matrices, precision, w_gate_up, w_down):
    if matrices is None:
        return
    recipe = find_recipe(precision)
    num_experts, _, width, hidden = w_gate_up.shape
    expected = (num_experts, 2 * width, hidden), w_down.shape
    got = tuple(matrix.plain.values.shape for matrix in matrices)
    if recipe is None or not recipe.has_products or got != expected:
        raise ValueError(
            f"matrices are for a precision with FP8 products and these weights, {expected}; got "
            f"{precision!r} and {got}. Make them with matrices.quantize_experts."
        )
