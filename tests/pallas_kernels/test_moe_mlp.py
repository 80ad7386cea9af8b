"""The routed experts against a dense float64 evaluation of every expert on every token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels

# Compiling costs more than running these, and rounding does not depend on the compiler's effort.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

TOKENS, EXPERTS, WIDTH, HIDDEN, TOP_K = 96, 5, 12, 16, 2


def make_inputs(seed=0, one_expert=False):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((TOKENS, HIDDEN), np.float32)
    w_gate_up = rng.standard_normal((EXPERTS, 2, WIDTH, HIDDEN), np.float32) * HIDDEN**-0.5
    w_down = rng.standard_normal((EXPERTS, WIDTH, HIDDEN), np.float32) * WIDTH**-0.5
    weights = rng.uniform(size=(TOKENS, TOP_K)).astype(np.float32)
    choices = [rng.permutation(EXPERTS)[:TOP_K] for _ in range(TOKENS)]
    ids = np.full((TOKENS, TOP_K), 3, np.int32) if one_expert else np.array(choices, np.int32)
    return (x, w_gate_up.astype(np.float32), w_down.astype(np.float32), weights), ids


def dense(x, w_gate_up, w_down, weights, ids):
    hidden = jnp.einsum("td,eafd->aetf", x, w_gate_up)
    out = jnp.einsum("etf,efd->etd", jax.nn.silu(hidden[0]) * hidden[1], w_down)
    return sum(weights[:, k, None] * out[ids[:, k], jnp.arange(TOKENS)] for k in range(TOP_K))


@jit
def dense_with_gradients(x, w_gate_up, w_down, weights, ids, dy):
    out, pullback = jax.vjp(lambda *a: dense(*a, ids), x, w_gate_up, w_down, weights)
    return out, *pullback(dy)


@pytest.mark.parametrize(
    ("implementation", "one_expert"), [("reference", False), ("xla", False), ("xla", True)]
)
def test_output_and_gradients_are_those_of_the_dense_evaluation(implementation, one_expert):
    arrays, ids = make_inputs(one_expert=one_expert)
    dy = np.random.default_rng(1).standard_normal((TOKENS, HIDDEN), np.float32)

    def ours(x, w_gate_up, w_down, weights):
        return pallas_kernels.moe_mlp(
            x, w_gate_up, w_down, ids, weights, implementation=implementation
        )

    @jit
    def got(arrays):
        out, pullback = jax.vjp(ours, *arrays)
        return out, *pullback(dy)

    with jax.enable_x64(True):
        want = jax.tree.map(
            np.asarray, dense_with_gradients(*(np.float64(a) for a in arrays), ids, np.float64(dy))
        )
    for x, y in zip(got(arrays), want, strict=True):
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * np.abs(y).max())


def test_bfloat16_errs_at_most_twice_as_much_as_plain_bfloat16():
    arrays, ids = make_inputs()
    *tensors, weights = arrays
    low = [jnp.asarray(a, jnp.bfloat16) for a in tensors]
    got = jit(pallas_kernels.moe_mlp)(*low, ids, weights)
    plain = jit(dense)(*low, weights.astype(jnp.bfloat16), ids)
    with jax.enable_x64(True):
        want = np.asarray(jit(dense)(*(np.float64(a) for a in low), np.float64(weights), ids))
    error, plain_error = (np.linalg.norm(np.float64(y) - want) for y in (got, plain))
    assert got.dtype == jnp.bfloat16
    assert error <= 2 * plain_error


def test_wrong_arguments_are_named():
    (x, w_gate_up, w_down, weights), ids = make_inputs()
    with pytest.raises(ValueError, match="w_down"):
        pallas_kernels.moe_mlp(x, w_gate_up, w_down[:, :-1], ids, weights)
    with pytest.raises(ValueError, match="int32"):
        pallas_kernels.moe_mlp(x, w_gate_up, w_down, ids.astype(np.int8), weights)
