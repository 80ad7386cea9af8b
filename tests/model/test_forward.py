"""The model against a slow float64 numpy version of it, over every switch of the family."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from numpy_model import GROUPED, SMALL, forward, init, jit

from kanana_jax import model
from kanana_jax.config import Llama3RopeConfig, YarnConfig
from kanana_jax.model import presets

YARN = YarnConfig(factor=4.0, original_max_positions=8, beta_fast=2.0, mscale=0.7)

VARIANTS = {
    "plain": {},
    "yarn": {"yarn": YARN, "rope_theta": 100.0},
    "yarn_equal_betas": {"yarn": dataclasses.replace(YARN, beta_fast=1.0), "rope_theta": 100.0},
    "query_compression_groups_raw_weights": {
        "q_lora_rank": 12,
        "num_expert_groups": 4,
        "num_groups_per_token": 2,
        "norm_topk_prob": False,
    },
    "zero_centred_tied_all_moe_no_shared": {
        "zero_centered_gamma": True,
        "tie_embeddings": True,
        "num_shared_experts": 0,
        "num_dense_layers": 0,
    },
    "clamped_without_gains": {"swiglu_clamp": 0.3, "norm_gain": "none", "q_lora_rank": 12},
    "all_dense_one_gain_a_norm": {
        "num_dense_layers": 3,
        "num_experts": 0,
        "num_experts_per_token": 0,
        "norm_gain": "scalar",
        "zero_centered_gamma": True,
    },
}


LLAMA3_ROPE = Llama3RopeConfig(factor=8.0, original_max_positions=16)
GROUPED_VARIANTS = {
    "grouped_with_experts": {},
    "grouped_llama3_rope_tied": {
        "num_dense_layers": 3,
        "llama3_rope": LLAMA3_ROPE,
        "rope_theta": 100.0,
        "tie_embeddings": True,
    },
    "grouped_head_norms_yarn": {
        "num_dense_layers": 3,
        "qk_norm": True,
        "num_kv_heads": 1,
        "yarn": YARN,
        "rope_theta": 100.0,
    },
    "own_key_heads_zero_centred": {
        "num_kv_heads": 4,
        "num_dense_layers": 3,
        "qk_norm": True,
        "zero_centered_gamma": True,
    },
}
CONFIGS = {name: dataclasses.replace(SMALL, **edits) for name, edits in VARIANTS.items()} | {
    name: dataclasses.replace(GROUPED, **edits) for name, edits in GROUPED_VARIANTS.items()
}


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_max_logits_equal_the_numpy_model(name):
    cfg = CONFIGS[name]
    rng = np.random.default_rng(1)
    params = init(cfg)
    bias = rng.normal(0, 0.2, (cfg.num_moe_layers, cfg.num_experts)).astype(np.float32)
    tokens = rng.integers(0, cfg.vocab_size, (2, 10)).astype(np.int32)
    segments = np.array([[1] * 4 + [2] * 6, [1] * 7 + [0] * 3], np.int32)
    positions = np.array([[*range(4), *range(6)], [*range(7), 0, 0, 0]], np.int32)

    weights = model.Weights(params, {"router_bias": bias})
    inputs = model.Inputs(tokens, positions, segments)
    apply = jit(functools.partial(model.apply, cfg, execution=presets.LAPTOP))
    got, aux = apply(weights, inputs)

    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    rows = [forward(wide, bias, *row, cfg) for row in zip(tokens, positions, segments, strict=True)]
    is_token = segments != 0
    want = np.stack([logits for logits, _ in rows])
    # Some 20 float32 reductions of up to 50 terms follow each other; measured: 1e-6 of the scale.
    scale = np.abs(want).max()
    np.testing.assert_allclose(got[is_token], want[is_token], rtol=0, atol=2e-5 * scale)
    want_max = np.max([largest for _, largest in rows], axis=0)
    np.testing.assert_allclose(aux.max_logits, want_max, rtol=0, atol=2e-5 * np.abs(want_max).max())
