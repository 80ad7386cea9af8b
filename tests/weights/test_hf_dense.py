"""Folders of LlamaForCausalLM and Qwen3ForCausalLM in and out, as strictly as DeepseekV3's."""

import dataclasses
import json

import hf_folder
import jax
import ml_dtypes
import numpy as np
import parity_cases
import pytest
import small_models

from kanana_jax import config
from kanana_jax.checkpoint import CheckpointError
from kanana_jax.model import presets
from kanana_jax.weights import hf, hf_config, native

LLAMA, QWEN3 = parity_cases.CASES["llama_llama3_rope"], parity_cases.CASES["qwen3_tied"]


@pytest.mark.parametrize("fields", [LLAMA, QWEN3], ids=["llama", "qwen3"])
def test_a_round_trip_changes_no_bit(fields, tmp_path):
    fields = fields | {"torch_dtype": "bfloat16", "eos_token_id": [1, 5]}
    weights = hf_folder.tensors(fields, ml_dtypes.bfloat16)
    source = hf_folder.write(tmp_path / "hf", fields, weights)
    hf.import_directory(source, tmp_path / "native")
    hf.export_directory(tmp_path / "native", tmp_path / "back")
    back = hf_folder.read(tmp_path / "back")
    assert back.keys() == weights.keys()
    for tensor, x in weights.items():
        np.testing.assert_array_equal(back[tensor].view(np.uint8), x.view(np.uint8), tensor)
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: written[key] for key in fields} == fields


def _narrow(cfg: config.ModelConfig) -> config.ModelConfig:
    """The shape with every switch of `cfg`, and few numbers."""
    num_dense = min(cfg.num_dense_layers, 2 if cfg.num_moe_layers == 0 else 1)
    latent = {"kv_lora_rank": 8, "qk_nope_head_dim": 4, "v_head_dim": 4}
    experts = {
        "moe_intermediate_size": 8,
        "num_experts": 8,
        "num_experts_per_token": min(cfg.num_experts_per_token, 4),
    }
    return dataclasses.replace(
        cfg,
        vocab_size=24,
        hidden_size=16,
        num_layers=2,
        num_dense_layers=num_dense,
        num_heads=4,
        num_kv_heads=cfg.num_kv_heads and 2,
        q_lora_rank=cfg.q_lora_rank and 8,
        qk_rope_head_dim=4,
        intermediate_size=24,
        **(latent if cfg.kv_lora_rank else {"v_head_dim": 4}),
        **(experts if cfg.num_experts else {}),
    )


PRESETS = {
    make.__name__: make
    for make in (
        presets.kanana_nano_2_1b,
        presets.kanana_8b,
        presets.kanana_9_8b,
        presets.kanana_2_3b,
        presets.kanana_2_30b_a3b,
        presets.moonlight_16b_a3b,
        presets.kimi_k2_1t_a32b,
        presets.deepseek_v3,
    )
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_goes_to_a_hugging_face_folder_and_back(name, tmp_path):
    cfg = _narrow(PRESETS[name]())
    weights = small_models.random_weights(cfg=cfg)
    small_models.folder(tmp_path / "native", weights, cfg)
    hf.export_directory(tmp_path / "native", tmp_path / "hf", max_position_embeddings=64)
    hf.import_directory(tmp_path / "hf", tmp_path / "again")
    assert native.read_description(tmp_path / "again").cfg == cfg
    got = native.restore(tmp_path / "again", native.abstract(cfg, np.float32))
    jax.tree.map(np.testing.assert_array_equal, got, weights)


MOE = dataclasses.replace(
    hf_config.from_hf(LLAMA),
    num_dense_layers=1,
    num_experts=4,
    num_experts_per_token=2,
    moe_intermediate_size=8,
)
YARN = config.YarnConfig(factor=2.0, original_max_positions=8)
NOT_EXPORTED = {
    "experts": (MOE, "expected num_dense_layers 2, got 1: LlamaForCausalLM has no other"),
    "logits_scaled_for_yarn": (
        dataclasses.replace(hf_config.from_hf(LLAMA), llama3_rope=None, yarn=YARN),
        "expected mscale 0 or absent, got 1.0: LlamaForCausalLM does not read it",
    ),
    "zero_centred": (
        dataclasses.replace(hf_config.from_hf(QWEN3), zero_centered_gamma=True),
        "zero_centered_gamma false and norm_gain vector, got true and vector",
    ),
    "no_gains": (
        dataclasses.replace(hf_config.from_hf(QWEN3), norm_gain="none"),
        "got false and none: the architecture's norms multiply by a vector",
    ),
}


@pytest.mark.parametrize("name", NOT_EXPORTED)
def test_a_part_that_the_architecture_lacks_is_not_exported(name):
    cfg, message = NOT_EXPORTED[name]
    with pytest.raises(CheckpointError, match=message):
        hf_config.to_hf(cfg, {"max_position_embeddings": 64}, "float32")


ROPE = parity_cases.LLAMA3_ROPE
REFUSED = {
    "bias": (LLAMA, {"attention_bias": True}, "attention_bias must be False"),
    "bias_of_the_mlp": (LLAMA, {"mlp_bias": True}, "mlp_bias must be False"),
    "window": (QWEN3, {"use_sliding_window": True}, "use_sliding_window must be False"),
    "layers_with_a_window": (
        QWEN3,
        {"layer_types": ["full_attention", "sliding_attention"]},
        "layer_types must be 'full_attention'",
    ),
    "uneven_groups": (LLAMA, {"num_key_value_heads": 3}, "num_key_value_heads must divide"),
    "no_head_dim": (QWEN3, {"head_dim": None}, "head_dim must be int, got None"),
    "dynamic_rope": (
        LLAMA,
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        "expected rope scaling 'yarn' or 'llama3' or none, got 'dynamic'",
    ),
    "part_of_llama3": (
        LLAMA,
        {"rope_scaling": {k: v for k, v in ROPE.items() if k != "low_freq_factor"}},
        "rope scaling lacks low_freq_factor",
    ),
    "empty_ramp": (
        LLAMA,
        {"rope_scaling": ROPE | {"low_freq_factor": 4.0}},
        "low_freq_factor must be below high_freq_factor",
    ),
    "scaled_logits": (
        LLAMA,
        {"rope_scaling": parity_cases.YARN},
        "expected mscale 0 or absent, got 1.0",
    ),
    "wider_heads": (LLAMA, {"head_dim": 16}, "k_proj.weight must have shape"),
    "without_head_norms": (
        LLAMA,
        {"architectures": ["Qwen3ForCausalLM"]},
        "missing model.layers.0.self_attn.k_norm.weight",
    ),
    "head_norms": (
        QWEN3,
        {"architectures": ["LlamaForCausalLM"]},
        "not of this architecture: model.layers.0.self_attn.k_norm.weight",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_config_that_cannot_be_used_is_refused_by_name(name, tmp_path):
    fields, changes, message = REFUSED[name]
    source = hf_folder.write(tmp_path / "hf", fields, hf_folder.tensors(fields))
    (source / "config.json").write_text(json.dumps(fields | changes))
    with pytest.raises(CheckpointError, match=message):
        hf.open_directory(source)


def test_fields_spelled_otherwise_mean_the_same_model():
    """As transformers 5 writes them, and as the oldest files leave them out."""
    rope = {"rope_theta": LLAMA["rope_theta"], **ROPE}
    others = {k: v for k, v in LLAMA.items() if k not in ("rope_theta", "rope_scaling")}
    same = others | {"rope_parameters": rope, "pretraining_tp": 1, "mlp_bias": False}
    assert hf_config.from_hf(same) == hf_config.from_hf(LLAMA)
    assert hf_config.from_hf(LLAMA | {"head_dim": None}) == hf_config.from_hf(LLAMA)
    windows = {"layer_types": ["full_attention"] * 2, "sliding_window": 4096}
    assert hf_config.from_hf(QWEN3 | windows) == hf_config.from_hf(QWEN3)
    untyped = {k: v for k, v in QWEN3.items() if k != "architectures"}
    assert hf_config.from_hf(untyped) == hf_config.from_hf(QWEN3)
