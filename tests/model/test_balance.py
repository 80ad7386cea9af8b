"""The bias evens the loads of experts, by either rule.

Letters: T tokens, L layers, E experts, N bins, X parts of a batch.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_model import SMALL, init, jit

from kanana_jax import config, model, parallel
from kanana_jax.model import balance, moe, presets

ONE_LAYER = dataclasses.replace(SMALL, num_layers=1, num_dense_layers=0)

_count = jit(balance.count_needed, static_argnums=3)
_quantile = jit(balance.quantile_router_bias, static_argnums=2)


def skewed_scores(num_tokens, num_experts, skew, seed=0):
    """(1, T, E) scores whose experts differ by up to 2 `skew` in the logit."""
    logits = np.random.default_rng(seed).standard_normal((1, num_tokens, num_experts))
    logits += np.linspace(-skew, skew, num_experts)
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def max_vio(score_BSE, bias_LE, top_k):
    cfg = dataclasses.replace(
        ONE_LAYER, num_experts=score_BSE.shape[-1], num_experts_per_token=top_k
    )
    ids, _ = moe.choose(jnp.asarray(score_BSE), bias_LE[0], cfg)
    load_E = jnp.bincount(ids.ravel(), length=cfg.num_experts)
    return float(balance.max_vio(load_E[None].astype(jnp.float32))[0])


def needed(score_TE, bias_E, top_k):
    """r as the paper writes it, from raw scores."""
    biased_TE = score_TE.astype(np.float64) + bias_E
    threshold_T = -np.sort(-biased_TE, axis=1)[:, top_k]
    return threshold_T[:, None] - score_TE


def after_quantile(score_BSE, bias_LE, top_k):
    is_token = np.ones(score_BSE.shape[:2], bool)
    return _quantile(bias_LE, _count(score_BSE, bias_LE[0], is_token, top_k)[None], top_k)


def test_bias_rises_where_load_is_low_and_keeps_its_mean():
    bias = jnp.zeros((2, 4))
    load = jnp.asarray([[9.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    got = np.asarray(balance.update_router_bias(bias, load, 0.5))
    np.testing.assert_allclose(got[0], [-0.75, 0.25, 0.25, 0.25])
    np.testing.assert_array_equal(got[1], 0.0)


def test_repeated_signs_balance_a_skewed_router():
    score = jnp.asarray(skewed_scores(256, 8, 1.0, seed=6))

    def load(bias):
        ids, _ = moe.choose(score, bias[0], ONE_LAYER)
        return jnp.bincount(ids.ravel(), length=8)[None].astype(jnp.float32)

    bias = balance.init_router_bias(ONE_LAYER)
    first = balance.max_vio(load(bias))[0]
    update = jit(lambda bias: balance.update_router_bias(bias, load(bias), 0.01))
    for _ in range(60):
        bias = update(bias)
    assert first > 0.5
    assert balance.max_vio(load(bias))[0] < 0.1


def test_max_vio_is_relative_to_the_mean_load():
    np.testing.assert_allclose(balance.max_vio(jnp.asarray([[6.0, 2.0, 0.0, 0.0]])), [2.0])
    assert balance.max_vio(jnp.zeros((0, 0))).shape == (0,)


@pytest.mark.parametrize(("num_experts", "top_k", "skew"), [(8, 2, 1.0), (8, 2, 3.0), (64, 6, 2.0)])
def test_a_few_quantiles_balance_a_skewed_router(num_experts, top_k, skew):
    score = skewed_scores(2048, num_experts, skew)
    bias = jnp.zeros((1, num_experts))
    seen = []
    for _ in range(6):
        seen.append(max_vio(score, bias, top_k))
        bias = after_quantile(score, bias, top_k)
    assert seen[0] > 1.0
    assert seen[1] < 0.5 * seen[0]
    assert max_vio(score, bias, top_k) < 0.1


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(96, 8, 2), (97, 8, 3), (40, 4, 3), (3, 8, 2)]),
    spread=st.sampled_from([0.0, 0.2, 3.0]),
)
def test_bias_is_the_quantile_of_raw_scores_to_a_bin(seed, shape, spread):
    num_tokens, num_experts, top_k = shape
    rng = np.random.default_rng(seed)
    score = rng.uniform(0, 1, (1, num_tokens, num_experts)).astype(np.float32)
    bias = rng.normal(0, spread, num_experts).astype(np.float32)
    got = np.asarray(after_quantile(score, bias[None], top_k)[0], np.float64)

    r_TE = needed(score[0], bias.astype(np.float64), top_k)
    rank = int(np.ceil(num_tokens * top_k / num_experts)) - 1
    want = np.sort(r_TE, axis=0)[rank]
    width = (np.ptp(bias) + 2) / balance.NUM_BINS
    # The subtracted mean may differ by a bin too.
    error = (got - want) - (got - want).mean()
    assert np.max(np.abs(error)) <= 2 * width + 1e-5
    assert abs(got.mean()) < 1e-6
    assert np.ptp(got) <= 1 + width + 1e-5


def test_tokens_below_the_bias_of_an_expert_are_those_that_chose_it():
    """Checks which side of the quantile the load is on. Where e came next, r is the bias itself."""
    score, bias = skewed_scores(512, 8, 1.5), np.linspace(-0.2, 0.2, 8).astype(np.float32)
    top_k = ONE_LAYER.num_experts_per_token
    ids, _ = moe.choose(jnp.asarray(score), jnp.asarray(bias), ONE_LAYER)
    load = np.bincount(np.asarray(ids).ravel(), minlength=8)
    below = np.cumsum(_count(score, bias, np.ones((1, 512), bool), top_k)[0], axis=-1)
    bin_of_bias = ((bias - bias.min() + 1) / (np.ptp(bias) + 2) * balance.NUM_BINS).astype(int)
    for expert, at in enumerate(bin_of_bias):
        assert below[expert, at - 2] <= load[expert] <= below[expert, at + 1]


def test_padding_is_not_counted_and_a_batch_of_padding_moves_no_bias():
    score = skewed_scores(64, 8, 1.0)
    bias = jnp.linspace(-0.1, 0.1, 8)
    is_token = np.arange(64)[None] < 40
    got = _count(score, bias, is_token, 2)
    np.testing.assert_array_equal(got, _count(score[:, :40], bias, np.ones((1, 40), bool), 2))
    np.testing.assert_array_equal(got.sum(axis=-1), 40)
    nothing = _count(score, bias, np.zeros((1, 64), bool), 2)
    np.testing.assert_array_equal(_quantile(bias[None], nothing[None], 2)[0], bias)


def test_histograms_of_parts_add_up():
    score, bias = skewed_scores(64, 8, 1.0), jnp.linspace(-0.1, 0.1, 8)
    halves = [_count(half, bias, np.ones((1, 32), bool), 2) for half in np.split(score, 2, axis=1)]
    whole = _count(score, bias, np.ones((1, 64), bool), 2)
    np.testing.assert_array_equal(sum(halves), whole)
    in_parts = jnp.concatenate(halves)[None]
    np.testing.assert_array_equal(
        _quantile(bias[None], in_parts, 2), _quantile(bias[None], whole[None], 2)
    )


@pytest.mark.slow
def test_eight_devices_count_as_one():
    cfg = dataclasses.replace(SMALL, num_layers=2, num_dense_layers=1)
    weights = model.Weights(init(cfg), {"router_bias": np.linspace(-0.1, 0.1, 8)[None]})
    rng = np.random.default_rng(0)
    segment_ids = np.ones((8, 16), np.int32)
    segment_ids[::2, -5:] = 0
    inputs = model.Inputs(
        rng.integers(0, cfg.vocab_size, (8, 16)), np.tile(np.arange(16), (8, 1)), segment_ids
    )

    def routing(**mesh):
        sizes = config.MeshConfig(**{"data": 1} | mesh)
        num_devices = np.prod(list(mesh.values()), dtype=int)
        with jax.set_mesh(parallel.make_mesh(sizes, jax.devices()[:num_devices])):
            counted = jax.jit(
                lambda weights: (
                    model.hidden_states(cfg, weights, inputs, presets.LAPTOP, counts_needed=True)[
                        1
                    ].routing
                )
            )
            return jax.device_get(counted(weights))

    one, eight = routing(), routing(data=2, expert=2, context=2)
    assert one.needed_LXEN.shape == (1, 1, 8, balance.NUM_BINS)
    assert eight.needed_LXEN.shape == (1, 8, 8, balance.NUM_BINS)
    np.testing.assert_array_equal(eight.load_LE, one.load_LE)
    apart = eight.needed_LXEN.sum(axis=1) - one.needed_LXEN.sum(axis=1)
    # Rounding may move a score over the edge of a bin, out of one and into the next.
    assert np.abs(apart).sum() <= 4
    np.testing.assert_array_equal(one.needed_LXEN.sum(axis=(1, 3)), (segment_ids > 0).sum())


def test_nothing_is_counted_unless_asked_for():
    inputs = model.Inputs(*np.zeros((2, 1, 4), np.int32), np.ones((1, 4), np.int32))
    weights = model.Weights(init(SMALL), model.init_buffers(SMALL))
    _, aux = jax.eval_shape(lambda: model.hidden_states(SMALL, weights, inputs, presets.LAPTOP))
    assert aux.needed is None
