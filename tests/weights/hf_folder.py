"""Writes Hugging Face folders for tests; names and shapes are spelled out, not the package's."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import parity_cases
from safetensors.numpy import save_file


def shapes(fields: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of a released model, in the order of its layers."""
    hidden, vocab = fields["hidden_size"], fields["vocab_size"]
    found = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(fields["num_hidden_layers"]):
        inside = {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            **{f"self_attn.{name}.weight": s for name, s in _attention(fields).items()},
            **_mlp(fields, is_moe=layer >= fields.get("first_k_dense_replace", layer + 1)),
        }
        found |= {f"model.layers.{layer}.{name}": shape for name, shape in inside.items()}
    found["model.norm.weight"] = (hidden,)
    if not fields["tie_word_embeddings"]:
        found["lm_head.weight"] = (vocab, hidden)
    return found


def _attention(fields: dict) -> dict[str, tuple[int, ...]]:
    return _latent(fields) if "kv_lora_rank" in fields else _grouped(fields)


def _grouped(fields: dict) -> dict[str, tuple[int, ...]]:
    hidden, heads = fields["hidden_size"], fields["num_attention_heads"]
    size, shared = fields.get("head_dim", hidden // heads), fields.get("num_key_value_heads", heads)
    found = {
        "q_proj": (heads * size, hidden),
        "k_proj": (shared * size, hidden),
        "v_proj": (shared * size, hidden),
        "o_proj": (hidden, heads * size),
    }
    if fields["model_type"] == "qwen3":
        found |= {"q_norm": (size,), "k_norm": (size,)}
    return found


def _latent(fields: dict) -> dict[str, tuple[int, ...]]:
    hidden, heads = fields["hidden_size"], fields["num_attention_heads"]
    nope, rotary = fields["qk_nope_head_dim"], fields["qk_rope_head_dim"]
    value, latent, rank = fields["v_head_dim"], fields["kv_lora_rank"], fields["q_lora_rank"]
    found = {
        "kv_a_proj_with_mqa": (latent + rotary, hidden),
        "kv_a_layernorm": (latent,),
        "kv_b_proj": (heads * (nope + value), latent),
        "o_proj": (hidden, heads * value),
    }
    if rank is None:
        return found | {"q_proj": (heads * (nope + rotary), hidden)}
    return found | {
        "q_a_proj": (rank, hidden),
        "q_a_layernorm": (rank,),
        "q_b_proj": (heads * (nope + rotary), rank),
    }


def _mlp(fields: dict, *, is_moe: bool) -> dict[str, tuple[int, ...]]:
    def swiglu(place: str, width: int) -> dict[str, tuple[int, ...]]:
        hidden = fields["hidden_size"]
        return {
            f"{place}.gate_proj.weight": (width, hidden),
            f"{place}.up_proj.weight": (width, hidden),
            f"{place}.down_proj.weight": (hidden, width),
        }

    if not is_moe:
        return swiglu("mlp", fields["intermediate_size"])
    experts, width = fields["n_routed_experts"], fields["moe_intermediate_size"]
    found = {
        "mlp.gate.weight": (experts, fields["hidden_size"]),
        "mlp.gate.e_score_correction_bias": (experts,),
        **swiglu("mlp.shared_experts", width * fields["n_shared_experts"]),
    }
    for expert in range(experts):
        found |= swiglu(f"mlp.experts.{expert}", width)
    return found


def tensors(fields: dict, dtype=np.float32) -> dict[str, np.ndarray]:
    """Weights by the formula of the parity cases; the router's bias is always float32."""
    return {
        name: parity_cases.weight(name, shape).astype(np.float32 if "bias" in name else dtype)
        for name, shape in shapes(fields).items()
    }


def write(folder: Path, fields: dict, weights: dict[str, np.ndarray], num_shards: int = 3) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "tokenizer_config.json").write_text("{}")
    places = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        names = list(weights)[shard::num_shards]
        save_file({name: weights[name] for name in names}, folder / file)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def read(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return {
        name: x
        for file in sorted(folder.glob("*.safetensors"))
        for name, x in load_file(file).items()
    }


def block_quantized(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float8, scale_inv) of a matrix, one scale per 128 x 128 block, by a loop over blocks."""
    rows, cols = (-(-size // 128) for size in x.shape)
    q, scale_inv = np.zeros(x.shape, ml_dtypes.float8_e4m3fn), np.zeros((rows, cols), np.float32)
    for i in range(rows):
        for j in range(cols):
            block = np.s_[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128]
            scale_inv[i, j] = np.abs(x[block]).max() / 448.0
            q[block] = (x[block] / scale_inv[i, j]).astype(ml_dtypes.float8_e4m3fn)
    return q, scale_inv


def of_blocks(q: np.ndarray, scale_inv: np.ndarray) -> np.ndarray:
    """What `block_quantized` gave, as bfloat16."""
    x = q.astype(np.float32)
    for i, row in enumerate(scale_inv):
        for j, scale in enumerate(row):
            x[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128] *= scale
    return x.astype(ml_dtypes.bfloat16)


def packed(x: np.ndarray, group_size: int = 32) -> dict[str, np.ndarray]:
    """The parts of a matrix of 4-bit integers, by a loop over its words."""
    rows, cols = x.shape
    scale = np.abs(x.astype(np.float32)).reshape(rows, -1, group_size).max(-1) / 7.0
    scale = scale.astype(ml_dtypes.bfloat16)
    wide = np.repeat(scale.astype(np.float32), group_size, 1)
    q = np.clip(np.rint(x.astype(np.float32) / wide), -8, 7).astype(np.int64) + 8
    words = np.zeros((rows, cols // 8), np.uint32)
    for place in range(8):
        words |= (q[:, place::8] << (4 * place)).astype(np.uint32)
    shape = np.array([rows, cols], np.int32)
    return {"packed": words.view(np.int32), "scale": scale, "shape": shape}


def unpacked(words: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """What `packed` gave, as bfloat16, number by number."""
    rows, cols = words.shape[0], words.shape[1] * 8
    size = cols // scale.shape[1]
    x = np.empty((rows, cols), np.float32)
    for i in range(rows):
        for j in range(cols):
            q = (int(words[i, j // 8]) >> (4 * (j % 8))) & 15
            x[i, j] = (q - 8) * np.float32(scale[i, j // size])
    return x.astype(ml_dtypes.bfloat16)
