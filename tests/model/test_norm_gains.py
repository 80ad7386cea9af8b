"""Writing norm gains in another form, or folding them into matrices, changes no function."""

import dataclasses

import jax
import numpy as np
import pytest
from numpy_model import GROUPED, SMALL, forward, init

from kanana_jax import config, model
from kanana_jax.model import surgery

pytestmark = pytest.mark.slow

LATENT = dataclasses.replace(SMALL, q_lora_rank=12)
CASES = {
    "latents": LATENT,
    "one_plus_gamma": dataclasses.replace(LATENT, zero_centered_gamma=True),
    "one_number": dataclasses.replace(LATENT, norm_gain="scalar", zero_centered_gamma=True),
    "grouped_head_norms": dataclasses.replace(GROUPED, qk_norm=True),
}


def wide(cfg):
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), init(cfg))
    return model.Weights(params, {"router_bias": np.zeros((cfg.num_moe_layers, cfg.num_experts))})


def logits(cfg, weights):
    tokens = np.random.default_rng(1).integers(0, cfg.vocab_size, 8).astype(np.int32)
    bias = np.asarray(weights.buffers["router_bias"])
    return forward(weights.params, bias, tokens, np.arange(8), np.ones(8, np.int32), cfg)[0]


@pytest.mark.parametrize("name", CASES)
def test_folded_gains_leave_logits_and_dropped_ones_do_not(name):
    cfg = CASES[name]
    weights = wide(cfg)
    want, folded = logits(cfg, weights), surgery.fold_gains(cfg, weights)
    for gains in surgery.by_class(cfg, folded).values():
        for gain in gains:
            np.testing.assert_array_equal(gain, 1.0)
    scale = np.abs(want).max()
    np.testing.assert_allclose(logits(cfg, folded), want, rtol=0, atol=1e-9 * scale)
    dropped = logits(cfg, surgery.drop_gains(cfg, weights))
    assert np.abs(dropped - want).max() > 1e-2 * scale


@pytest.mark.parametrize(
    "changes", [{"zero_centered_gamma": True}, {"norm_gain": "scalar"}, {"norm_gain": "none"}]
)
def test_vectors_of_any_gains_are_the_same_model(changes):
    cfg = dataclasses.replace(LATENT, **changes)
    weights = wide(cfg)
    new, made = surgery.with_vector_gains(cfg, weights)
    assert new == LATENT
    assert jax.tree.structure(made.params) == jax.tree.structure(init(LATENT))
    want = logits(cfg, weights)
    np.testing.assert_allclose(logits(new, made), want, rtol=0, atol=1e-6 * np.abs(want).max())


def test_classes_are_those_that_a_model_has():
    cfg = CASES["one_plus_gamma"]
    found = surgery.by_class(cfg, wide(cfg))
    assert set(found) == {"input", "post_attention", "q_latent", "kv_latent", "final"}
    first, _ = found["kv_latent"]
    gamma = init(cfg)["dense_layers"]["attention"]["kv_norm"]
    np.testing.assert_allclose(first, 1.0 + gamma, rtol=1e-6)
    assert set(surgery.by_class(GROUPED, wide(GROUPED))) == {"input", "post_attention", "final"}
    bare = dataclasses.replace(LATENT, norm_gain="none")
    assert surgery.by_class(bare, wide(bare)) == {}


def test_what_cannot_be_folded_or_cut_is_refused():
    tied = dataclasses.replace(LATENT, tie_embeddings=True)
    with pytest.raises(config.ConfigError, match="a head of its own, got tie_embeddings True"):
        surgery.fold_gains(tied, wide(tied))
    scalar = dataclasses.replace(LATENT, norm_gain="scalar")
    for field in ("hidden_size", "kv_lora_rank"):
        with pytest.raises(config.ConfigError, match="must be vectors, got norm_gain scalar"):
            surgery.CUTS[field](scalar, wide(scalar), None, 4)
