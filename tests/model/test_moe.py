import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_model import SMALL, balance_loss, choose, experts, init, jit

from kanana_jax import model
from kanana_jax.model import exact, moe, presets

GROUPED = dataclasses.replace(SMALL, num_expert_groups=4, num_groups_per_token=2)


_choose = jit(moe.choose, static_argnums=2)


def scores(seed, *shape):
    return np.random.default_rng(seed).uniform(0.01, 0.99, shape).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(16, 4, 2, 4), (16, 2, 1, 5), (8, 8, 3, 2), (12, 3, 3, 6)]),
    spread=st.sampled_from([0.0, 0.1, 3.0]),
)
def test_choice_equals_the_written_rule_with_and_without_groups(seed, shape, spread):
    num_experts, groups, kept, top_k = shape
    cfg = dataclasses.replace(
        SMALL,
        num_experts=num_experts,
        num_expert_groups=groups,
        num_groups_per_token=kept,
        num_experts_per_token=top_k,
    )
    score = scores(seed, 1, 6, num_experts)
    # Strongly negative biases too: no token may leave its groups then either.
    bias = np.random.default_rng(seed).normal(-spread, spread, num_experts).astype(np.float32)
    ids, _ = _choose(score, bias, cfg)
    want = [choose(row, bias, cfg) for row in score[0]]
    np.testing.assert_array_equal(ids[0], want)


def test_bias_changes_the_choice_and_never_a_weight():
    score = jnp.asarray(scores(0, 2, 5, 8))
    plain_ids, _ = moe.choose(score, jnp.zeros(8), SMALL)
    bias = jnp.zeros(8).at[3].set(10.0)
    ids, weights = moe.choose(score, bias, SMALL)
    assert np.all((np.asarray(ids) == 3).any(axis=-1))
    assert not np.array_equal(ids, plain_ids)
    picked = np.take_along_axis(np.asarray(score), np.asarray(ids), axis=-1)
    want = SMALL.routed_scaling_factor * picked / picked.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(weights, want, rtol=1e-6)
    grad = jax.grad(lambda b: moe.choose(score, b, SMALL)[1].sum())(bias)
    np.testing.assert_array_equal(grad, 0.0)


@pytest.mark.parametrize("cfg", [SMALL, GROUPED], ids=["one_group", "groups"])
def test_layer_equals_a_loop_over_tokens_and_experts(cfg):
    stack = model.bind(cfg, init(cfg), presets.LAPTOP).moe_layers.mlp
    layer = jax.tree.map(lambda leaf: leaf[0], stack)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 7, cfg.hidden_size), np.float32)
    bias = rng.normal(0, 0.3, cfg.num_experts).astype(np.float32)
    is_token = np.ones((2, 7), bool)
    is_token[1, 4:] = False
    out, stats = jit(lambda layer, *inputs: layer(*inputs))(layer, x, bias, is_token)

    params = nnx.to_pure_dict(nnx.state(layer))
    wide = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    rows = [experts(wide, row.astype(np.float64), bias, cfg) for row in x]
    want = np.stack([row for row, _ in rows])
    np.testing.assert_allclose(out, want, rtol=0, atol=1e-5 * np.abs(want).max())
    ids = np.stack([chosen for _, chosen in rows])[is_token]
    load = np.bincount(ids.ravel(), minlength=cfg.num_experts)
    np.testing.assert_array_equal(stats.load_E, load)


def test_balance_loss_equals_the_printed_formula_and_skips_padding():
    score = scores(3, 3, 9, 8)
    is_token = np.ones((3, 9), bool)
    is_token[1, 5:] = False
    is_token[2] = False
    got = moe.balance_loss(jnp.asarray(score), jnp.asarray(is_token), 3)
    want = balance_loss(score.astype(np.float64), is_token, 3)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_balance_loss_is_one_when_every_expert_is_used_alike():
    score = np.full((1, 8, 8), 0.1, np.float32) + 0.5 * np.eye(8, dtype=np.float32)
    got = moe.balance_loss(jnp.asarray(score), jnp.ones((1, 8), bool), 1)
    np.testing.assert_allclose(got, 1.0, rtol=1e-6)


def test_balance_loss_lowers_the_scores_of_busy_experts():
    score = jnp.asarray(scores(4, 1, 16, 8)).at[..., 2].add(1.0)
    gradient = jit(jax.grad(moe.balance_loss), static_argnums=2)
    grad = gradient(score, jnp.ones((1, 16), bool), 2)
    assert grad[..., 2].mean() > 0 > grad[..., [0, 1, 3, 4, 5, 6, 7]].mean()


@pytest.mark.parametrize("num_tokens", [4, 256])
def test_router_computes_in_float32_for_bfloat16_activations(num_tokens):
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.standard_normal((1, num_tokens, 512)), jnp.bfloat16)
    router = rng.standard_normal((512, 8)).astype(np.float32) * 0.05
    got = moe.router_scores(x, jnp.asarray(router))
    want = 1 / (1 + np.exp(-np.asarray(x, np.float64) @ router))
    assert got.dtype == jnp.float32
    # 512 float32 terms of size 0.05 in the logit; bfloat16 would be off by 1e-3.
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_exact_products_of_bfloat16_have_the_gradients_of_float32():
    rng = np.random.default_rng(6)
    x = jnp.asarray(rng.standard_normal((2, 64, 96)), jnp.bfloat16)
    w = jnp.asarray(rng.standard_normal((96, 8)), jnp.float32)
    grad = jnp.asarray(rng.standard_normal((2, 64, 8)), jnp.float32)
    out, pull = jax.vjp(exact.matmul, x, w)
    grad_x, grad_w = jit(pull)(grad)
    wide_x, wide_w, wide_grad = (np.asarray(array, np.float64) for array in (x, w, grad))
    np.testing.assert_allclose(out, wide_x @ wide_w, atol=2e-5)
    wanted = np.einsum("bsd,bse->de", wide_x, wide_grad)
    np.testing.assert_allclose(grad_w, wanted, atol=2e-5)  # bfloat16: 0.03
    assert grad_x.dtype == jnp.bfloat16
    wanted_x = wide_grad @ wide_w.T
    # One rounding to bfloat16, and what is left out before it.
    np.testing.assert_allclose(np.asarray(grad_x, float), wanted_x, rtol=2**-8, atol=2e-4)
    text = jax.jit(pull).lower(grad).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and all("xbf16>, tensor<" in line for line in products)


def gate_scaling(num_experts, top_k, draws=2000):
    """Moonlight's factor: 1 / the norm of normalised top-k sigmoid scores of Gaussian logits."""
    logits = np.random.default_rng(0).standard_normal((draws, num_experts))
    top = np.sort(1 / (1 + np.exp(-logits)), axis=-1)[:, -top_k:]
    weights = top / top.sum(axis=-1, keepdims=True)
    return np.mean(1 / np.linalg.norm(weights, axis=-1))


@pytest.mark.parametrize(
    "cfg",
    [presets.kanana_2_width(width) for width in (256, 512, 1024, 2048)]
    + [presets.moonlight_16b_a3b(), presets.kimi_k2_1t_a32b(), presets.tiny()],
    ids=lambda cfg: f"{cfg.num_experts}-{cfg.num_experts_per_token}",
)
def test_routed_scaling_factor_is_the_gate_scaling_formula(cfg):
    # Published to three decimals; K2's 2.827 lies 0.001 under the formula.
    np.testing.assert_allclose(
        gate_scaling(cfg.num_experts, cfg.num_experts_per_token),
        cfg.routed_scaling_factor,
        atol=0.0016,
    )
