"""Tiny DeepseekV3ForCausalLM configurations that turn every switch, and weights by a formula.

Needs only numpy, so that the process that runs transformers and the tests both read it.
"""

import zlib

import numpy as np

BASE = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "intermediate_size": 40,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rope_interleave": True,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "num_nextn_predict_layers": 0,
    "torch_dtype": "float32",
}
YARN = {
    "type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


def _yarn(**changes):
    fields = {name: value for name, value in (YARN | changes).items() if value is not None}
    return {"rope_scaling": fields, "rope_theta": 100.0}


_SWITCHES = {
    "plain": {},
    "q_lora": {"q_lora_rank": 12},
    "groups": {"n_group": 4, "topk_group": 2},
    "groups_one_kept": {"n_group": 2, "topk_group": 1},
    "groups_all_kept": {"n_group": 4, "topk_group": 4},
    "raw_weights": {"norm_topk_prob": False},
    "scaling_one": {"routed_scaling_factor": 1.0},
    "dense_first_two": {"first_k_dense_replace": 2},
    "all_moe": {"first_k_dense_replace": 0},
    "all_dense": {"first_k_dense_replace": 3},
    "one_shared": {"n_shared_experts": 1},
    "top_one": {"num_experts_per_tok": 1},
    "top_all": {"num_experts_per_tok": 8},
    "tied": {"tie_word_embeddings": True},
    "eps": {"rms_norm_eps": 1e-2},
    "theta": {"rope_theta": 50.0},
    "yarn": _yarn(),
    "yarn_mscale": _yarn(mscale=0.7),
    "yarn_mscale_all_dim": _yarn(mscale_all_dim=0.5),
    "yarn_no_mscales": _yarn(mscale=None, mscale_all_dim=None),
    "yarn_no_mscale": _yarn(mscale=None),
    "yarn_betas": _yarn(beta_fast=32.0, beta_slow=2.0),
    "yarn_factor_one": _yarn(factor=1.0),
    "half_rotary": {"rope_interleave": False},
    "half_rotary_q_lora_yarn": {
        "rope_interleave": False,
        "qk_rope_head_dim": 8,
        "q_lora_rank": 12,
        **_yarn(),
    },
    "wide_rotary": {"qk_rope_head_dim": 16},
    "one_head": {"num_attention_heads": 1, "num_key_value_heads": 1},
    "wide_values": {"v_head_dim": 20, "qk_nope_head_dim": 4},
    "like_deepseek": {
        "q_lora_rank": 12,
        "n_group": 4,
        "topk_group": 2,
        "n_shared_experts": 1,
        **_yarn(mscale=0.8),
    },
}
CASES = {name: BASE | changes for name, changes in _SWITCHES.items()}
TOKENS = np.random.default_rng(7).integers(0, BASE["vocab_size"], (2, 24))


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 tensor `name` of every case: normal numbers seeded by the name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x = rng.standard_normal(shape)
    if name.endswith("norm.weight"):
        return np.float32(1.0 + 0.1 * x)
    return np.float32(0.2 * x)
