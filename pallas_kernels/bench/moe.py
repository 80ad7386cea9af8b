"""A mixture-of-experts layer of this package, and by plain autodiff, on the same inputs.

Letters: T tokens, K experts per token, E experts, F expert width, D hidden width, M = T K rows.
"""

import functools

import jax
import jax.numpy as jnp

import pallas_kernels
from pallas_kernels.bench import timing
from pallas_kernels.moe_mlp import cases, routing
from pallas_kernels.moe_mlp.matrices import quantize_experts

OPS = ("forward", "forward+backward")


def flops(case: cases.Case) -> dict[str, float]:
    """Model FLOPs of each op: three products for each expert that a token visits."""
    visits = case.num_tokens * (case.top_k + case.num_shared)
    forward = 6.0 * visits * case.width * case.hidden
    return dict(zip(OPS, (forward, 3 * forward), strict=True))


def rows(case: cases.Case) -> list[timing.Row]:
    """The routed and shared experts, with gradients and without, and routing alone."""
    *arrays, ids, weights, dy = cases.make_inputs(case)
    arrays = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
    choice = pallas_kernels.grouped_matmul_choice(arrays[0], arrays[2]).implementation
    in_fp8 = with_precision("fp8")
    made = jax.jit(functools.partial(quantize_experts, dtype=jnp.bfloat16))(*arrays[1:])
    layers = [
        (f"ours ({choice})", pallas_kernels.moe_mlp, None),
        ("plain autodiff", plain, None),
        ("ours, fp8_store", with_precision("fp8_store"), None),
        ("ours, fp8", in_fp8, None),
        ("ours, fp8, matrices made before", in_fp8, made),
    ]
    inputs = *arrays, jnp.asarray(ids), jnp.asarray(weights)
    dy = jnp.asarray(dy, jnp.bfloat16)
    pairs = [pair for _, *one in layers for pair in both(case, one, inputs, dy)]
    found = []
    for i, run in enumerate(timing.compiled(pairs)):
        (name, layer, _), op = layers[i // len(OPS)], OPS[i % len(OPS)]
        row = timing.attempt(case.name, op, name, flops(case)[op], run, jax.block_until_ready)
        found.append(row._replace(kept_bytes_per_token=kept_bytes_per_token(layer, case)))
    sorts = ("ours (counting)", routing.sort_by_expert), ("jnp.argsort", _argsort)
    for name, sort in sorts:
        run = functools.partial(jax.jit(sort, static_argnums=1), inputs[3], case.num_experts)
        found.append(timing.attempt(case.name, "routing", name, None, run, jax.block_until_ready))
    return found


def kept_bytes_per_token(layer, case: cases.Case) -> float:
    """What the pullback of the routed experts keeps in bfloat16, weights left out."""
    num_tokens, hidden, width, num_experts, top_k = case[1:6]
    shapes = (num_tokens, hidden), (num_experts, 2, width, hidden), (num_experts, width, hidden)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    ids, weights = (
        jax.ShapeDtypeStruct((num_tokens, top_k), dtype) for dtype in (jnp.int32, jnp.float32)
    )
    # A pullback is a pytree; its leaves are what it keeps.
    kept = jax.eval_shape(lambda *inputs: jax.vjp(layer, *inputs)[1], *arrays, ids, weights)
    leaves = [leaf for leaf in jax.tree.leaves(kept) if leaf.shape[:1] != (num_experts,)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / num_tokens


def plain(x_TD, w_gate_up_E2FD, w_down_EFD, expert_ids_TK, weights_TK):
    """The routed experts with nothing said about derivatives."""
    num_experts, _, _, hidden = w_gate_up_E2FD.shape
    pair_M, _, group_sizes_E = _argsort(expert_ids_TK, num_experts)
    token_M = pair_M // expert_ids_TK.shape[1]
    h_M2F = pallas_kernels.grouped_matmul(
        x_TD[token_M],
        w_gate_up_E2FD.reshape(num_experts, -1, hidden),
        group_sizes_E,
        transpose_rhs=True,
    )
    gate_MF, up_MF = jnp.split(h_M2F, 2, axis=1)
    y_MD = pallas_kernels.grouped_matmul(jax.nn.silu(gate_MF) * up_MF, w_down_EFD, group_sizes_E)
    weight_M = weights_TK.reshape(-1)[pair_M].astype(x_TD.dtype)
    y_TD = jnp.zeros(x_TD.shape, jnp.float32).at[token_M].add(y_MD * weight_M[:, None])
    return y_TD.astype(x_TD.dtype)


def _argsort(expert_ids_TK, num_experts):
    expert_M = expert_ids_TK.reshape(-1)
    pair_M = jnp.argsort(expert_M, stable=True)
    row_TK = jnp.zeros_like(pair_M).at[pair_M].set(jnp.arange(pair_M.size, dtype=jnp.int32))
    group_sizes_E = jnp.bincount(expert_M, length=num_experts).astype(jnp.int32)
    return pair_M, row_TK.reshape(expert_ids_TK.shape), group_sizes_E


def with_precision(precision):
    return functools.partial(pallas_kernels.moe_mlp, precision=precision)


def both(case, layer, inputs, dy):
    """A layer and its gradients, each with its arguments."""
    routed, matrices = layer
    width = case.num_shared * case.width
    keys = jax.random.split(jax.random.key(0))
    w_gate_up = jax.random.normal(keys[0], (2, width, case.hidden), dy.dtype)
    w_down = jax.random.normal(keys[1], (width, case.hidden), dy.dtype)

    def whole(matrices, x, w_gate_up_routed, w_down_routed, weights, w_gate_up, w_down):
        gate_up = jnp.einsum("td,afd->atf", x, w_gate_up)
        shared = (jax.nn.silu(gate_up[0]) * gate_up[1]) @ w_down
        given = {} if matrices is None else {"matrices": matrices}
        return shared + routed(x, w_gate_up_routed, w_down_routed, inputs[3], weights, **given)

    def gradients(dy, matrices, *inputs):
        y, pullback = jax.vjp(functools.partial(whole, matrices), *inputs)
        return y, pullback(dy)

    arguments = matrices, *inputs[:3], inputs[4], w_gate_up, w_down
    return (whole, arguments), (gradients, (dy, *arguments))
