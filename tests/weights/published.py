"""The files of published models, with every field as they have it and tiny sizes.

config.json of each, what its tokenizer_config.json names, and how its weights are stored. Sizes
that decide nothing but memory are those of `NARROW`; a field that was not published has our value.
"""

import base64
import json
from pathlib import Path

import hf_folder
import ml_dtypes
import numpy as np

NARROW = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
}
LATENT = NARROW | {
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
}
_YARN = {"beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "type": "yarn"}
_YARN |= {"original_max_position_embeddings": 4096}
_DEEPSEEK = LATENT | {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "rope_theta": 50000.0,
    "rope_scaling": None,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "aux_loss_alpha": 0.001,
    "seq_aux": True,
    "ep_size": 1,
    "use_cache": True,
    "pretraining_tp": 1,
    "torch_dtype": "bfloat16",
}
FP8 = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
INT4 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "kv_cache_scheme": None,
    "ignore": [
        "lm_head",
        "re:.*self_attn.*",
        "re:.*shared_experts.*",
        r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
    ],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "input_activations": None,
            "output_activations": None,
            "weights": {
                "actorder": None,
                "block_structure": None,
                "dynamic": False,
                "group_size": 32,
                "num_bits": 4,
                "observer": "minmax",
                "observer_kwargs": {},
                "strategy": "group",
                "symmetric": True,
                "type": "int",
            },
        }
    },
}
_KIMI = _DEEPSEEK | {
    "model_type": "kimi_k2",
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    "bos_token_id": 290,
    "eos_token_id": 291,
    "num_experts_per_tok": 4,
    "routed_scaling_factor": 2.827,
    "num_nextn_predict_layers": 0,
}
KIMI_K2 = _KIMI | {
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131072,
    "rope_scaling": _YARN | {"beta_fast": 1.0, "factor": 32.0},
    "quantization_config": FP8,
}
KIMI_K2_THINKING = _KIMI | {
    "max_position_embeddings": 262144,
    "rope_scaling": _YARN | {"beta_fast": 1.0, "factor": 64.0},
    "quantization_config": INT4,
}
_TEXT = {key: value for key, value in _KIMI.items() if key != "rope_scaling"}
KIMI_K2_5 = {
    "architectures": ["KimiK25ForConditionalGeneration"],
    "model_type": "kimi_k25",
    "bos_token_id": 290,
    "eos_token_id": 291,
    "media_placeholder_token_id": 300,
    "tie_word_embeddings": False,
    "quantization_config": INT4,
    "vision_config": {"vt_hidden_size": 1152, "mm_projector_type": "patchmerger"},
    "text_config": _TEXT
    | {
        "model_type": "deepseek_v3",
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "label2id": {"LABEL_0": 0, "LABEL_1": 1},
        "max_position_embeddings": 262144,
        "rope_parameters": _YARN
        | {"beta_fast": 32.0, "factor": 64.0, "rope_theta": 50000.0, "rope_type": "yarn"},
        "quantization_config": INT4,
    },
}
MOONLIGHT = _DEEPSEEK | {
    "q_lora_rank": None,
    "num_experts_per_tok": 6,
    "n_shared_experts": 2,
    "routed_scaling_factor": 2.446,
    "max_position_embeddings": 8192,
    "num_nextn_predict_layers": 0,
}
KANANA_2 = _DEEPSEEK | {
    "q_lora_rank": None,
    "num_experts_per_tok": 6,
    "n_shared_experts": 2,
    "routed_scaling_factor": 2.448,
    "max_position_embeddings": 32768,
}
DEEPSEEK_V3 = _DEEPSEEK | {
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "rope_theta": 10000,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 163840,
    "num_nextn_predict_layers": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "rope_scaling": _YARN | {"beta_fast": 32, "beta_slow": 1, "factor": 40},
    "quantization_config": FP8,
}
_NOT_IN_GLM = {"moe_layer_freq", "scoring_func", "aux_loss_alpha", "seq_aux", "ep_size"}
GLM_4_7_FLASH = {key: value for key, value in _DEEPSEEK.items() if key not in _NOT_IN_GLM} | {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "num_experts_per_tok": 4,
    "routed_scaling_factor": 1.8,
    "rope_theta": 1000000,
    "partial_rotary_factor": 1.0,
    "max_position_embeddings": 202752,
    "num_nextn_predict_layers": 1,
    "pad_token_id": 280,
    "eos_token_id": [280, 287, 289],
    "dtype": "bfloat16",
}
_DENSE = NARROW | {
    "num_attention_heads": 4,
    "head_dim": 16,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rope_scaling": None,
    "use_cache": True,
    "torch_dtype": "bfloat16",
}
KANANA_NANO = _DENSE | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "mlp_bias": False,
    "pretraining_tp": 1,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": 290,
    "eos_token_id": 291,
}
KANANA_2_3B = _DENSE | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "rope_theta": 1000000,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
    "max_window_layers": 2,
    "sliding_window": None,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
}
MODELS = {
    "kanana_2_30b_a3b": KANANA_2,
    "kanana_2_3b": KANANA_2_3B,
    "kanana_nano_2_1b": KANANA_NANO,
    "moonlight_16b_a3b": MOONLIGHT,
    "kimi_k2": KIMI_K2,
    "kimi_k2_thinking": KIMI_K2_THINKING,
    "kimi_k2_5": KIMI_K2_5,
    "deepseek_v3": DEEPSEEK_V3,
    "glm_4_7_flash": GLM_4_7_FLASH,
}


# These have a tiktoken.model in the place of a tokenizer.json.
OF_TIKTOKEN = {"moonlight_16b_a3b", "kimi_k2", "kimi_k2_thinking", "kimi_k2_5"}
SPECIAL = {290: "[BOS]", 291: "[EOS]", 293: "<|im_end|>"}
_TOKENIZATION = r"""
class TikTokenTokenizer:
    pat_str = "|".join([r"[\p{Han}]+", r" ?[\p{L}&&[^\p{Han}]]+", r"\p{N}{1,3}", r"\s+"])
"""


def text_of(fields: dict) -> dict:
    return fields.get("text_config", fields)


def exact(fields: dict) -> dict[str, np.ndarray]:
    """The bfloat16 weights of the language model, before they are quantised."""
    return hf_folder.tensors(text_of(fields), ml_dtypes.bfloat16)


def stored(fields: dict) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(tensors of the files, the numbers of the language model that they stand for)."""
    text = text_of(fields)
    meant = exact(fields)
    files = dict(meant)
    said = text.get("quantization_config") or {}
    for name in [name for name in meant if _is_quantized(name, said)]:
        if said is FP8:
            files[name], files[f"{name}_scale_inv"] = hf_folder.block_quantized(meant[name])
            meant[name] = hf_folder.of_blocks(files[name], files[f"{name}_scale_inv"])
        else:
            x = files.pop(name)
            files |= {f"{name}_{part}": one for part, one in hf_folder.packed(x).items()}
            meant[name] = hf_folder.unpacked(files[f"{name}_packed"], files[f"{name}_scale"])
    for layer in range(text.get("num_nextn_predict_layers") or 0):
        files[f"model.layers.{text['num_hidden_layers'] + layer}.eh_proj.weight"] = np.ones((2, 2))
    if text is not fields:
        files = {f"language_model.{name}": x for name, x in files.items()}
        files["vision_tower.patch_embed.proj.bias"] = np.ones(3, ml_dtypes.bfloat16)
        files["mm_projector.pre_norm.weight"] = np.ones(3, ml_dtypes.bfloat16)
    return files, meant


def _is_quantized(name: str, said: dict) -> bool:
    if said is FP8:
        return "_proj" in name
    return bool(said) and ".experts." in name


def write(folder: Path, name: str) -> tuple[Path, dict[str, np.ndarray]]:
    """The folder of a model, and the numbers that its language model has."""
    files, meant = stored(MODELS[name])
    source = hf_folder.write(folder, MODELS[name], files)
    said = {"bos_token": "[BOS]", "eos_token": "[EOS]", "model_max_length": 1000000}
    if name in OF_TIKTOKEN:
        said |= {"tokenizer_class": "TikTokenTokenizer", "clean_up_tokenization_spaces": False}
        said["added_tokens_decoder"] = {
            str(number): {"content": content, "special": True, "lstrip": False, "rstrip": False}
            for number, content in SPECIAL.items()
        }
        ranks = [f"{base64.b64encode(bytes([i])).decode()} {i}" for i in range(256)]
        (source / "tiktoken.model").write_text("\n".join(ranks) + "\n")
        (source / "tokenization_kimi.py").write_text(_TOKENIZATION)
    (source / "tokenizer_config.json").write_text(json.dumps(said))
    return source, meant
