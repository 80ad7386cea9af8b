"""Tiny configurations of every architecture that turn every switch, and weights by a formula.

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
GLM = BASE | {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "q_lora_rank": 12,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.8,
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 40,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "torch_dtype": "float32",
}
QWEN3 = LLAMA | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
_DENSE_SWITCHES = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "head_of_its_own": {"num_key_value_heads": 4},
    "one_key_head": {"num_key_value_heads": 1},
    "three_readers": {"num_attention_heads": 6, "hidden_size": 24},
    "wide_heads": {"head_dim": 16},
    "eps": {"rms_norm_eps": 1e-2},
    "theta": {"rope_theta": 50.0},
    "llama3_rope": {"rope_scaling": LLAMA3_ROPE, "rope_theta": 100.0},
    "llama3_rope_narrow_ramp": {
        "rope_scaling": LLAMA3_ROPE | {"low_freq_factor": 0.5, "high_freq_factor": 0.75},
        "rope_theta": 100.0,
        "tie_word_embeddings": True,
    },
    "yarn": _yarn(mscale=None, mscale_all_dim=None),
}
CASES = {name: BASE | changes for name, changes in _SWITCHES.items()}
CASES |= {f"llama_{name}": LLAMA | changes for name, changes in _DENSE_SWITCHES.items()}
CASES |= {f"qwen3_{name}": QWEN3 | changes for name, changes in _DENSE_SWITCHES.items()}
CASES |= {"glm_plain": GLM, "glm_groups": GLM | {"n_group": 4, "topk_group": 2, **_yarn()}}
CASES["llama_old_file"] = {
    name: x for name, x in LLAMA.items() if name not in ("head_dim", "num_key_value_heads")
}
TOKENS = np.random.default_rng(7).integers(0, BASE["vocab_size"], (2, 24))
GREEDY = ("llama_llama3_rope", "llama_three_readers", "qwen3_tied", "qwen3_yarn")
PROMPT_LENGTH, NUM_GREEDY = 9, 12


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 tensor `name` of every case: normal numbers seeded by the name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x = rng.standard_normal(shape)
    if name.endswith("norm.weight"):
        return np.float32(1.0 + 0.1 * x)
    return np.float32(0.2 * x)
