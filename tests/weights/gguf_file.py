"""Writes GGUF files of tiny Llama models for tests; names and layouts are spelled out here."""

from pathlib import Path

import gguf
import hf_folder
import numpy as np
import parity_cases

FIELDS = parity_cases.CASES["llama_plain"]
# Byte-level BPE with some merges and digits, and a control token.
ALPHABET = sorted(chr(code) for code in (*range(33, 127), 0x120, 0x10A))
MERGES = ["1 2", "12 3", "a b", "\u0120 ab", "\u0120 \u010a"]
TOKENS = [*ALPHABET, *(merge.replace(" ", "") for merge in MERGES), "<|end|>"]
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def fields(**changes):
    """Of a Llama whose vocabulary is TOKENS; None removes one."""
    found = FIELDS | {"vocab_size": len(TOKENS)} | changes
    return {name: value for name, value in found.items() if value is not None}


def write(
    path: Path, model_fields: dict, kind: str = "F32", extra: dict | None = None, **metadata
) -> Path:
    """Matrices are of `kind`, and `extra` are further tensors.

    `metadata` changes fields, with __ for a dot; None removes one.
    """
    architecture = metadata.pop("general__architecture", "llama")
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in _metadata(model_fields, metadata).items():
        _add(writer, name, value)
    for name, x in hf_folder.tensors(model_fields).items():
        their_name = _their_name(name)
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if part in name:
                x = _neighbours(x, model_fields[heads])
        quantized = gguf.GGMLQuantizationType[kind if x.ndim == 2 else "F32"]
        writer.add_tensor(their_name, gguf.quants.quantize(x, quantized), raw_dtype=quantized)
    for name, x in (extra or {}).items():
        writer.add_tensor(name, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _their_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{_NAMES[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_NAMES[part]}.weight"


def _neighbours(x: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of a projection, of which rows i and i + half of a head become neighbours."""
    out = []
    for head in np.split(x, num_heads):
        first, second = np.split(head, 2)
        out += [row for pair in zip(first, second, strict=True) for row in pair]
    return np.array(out)


def _metadata(model_fields: dict, changes: dict) -> dict:
    found = {
        "llama.block_count": model_fields["num_hidden_layers"],
        "llama.context_length": model_fields["max_position_embeddings"],
        "llama.embedding_length": model_fields["hidden_size"],
        "llama.feed_forward_length": model_fields["intermediate_size"],
        "llama.attention.head_count": model_fields["num_attention_heads"],
        "llama.attention.head_count_kv": model_fields["num_key_value_heads"],
        "llama.rope.dimension_count": model_fields["head_dim"],
        "llama.rope.freq_base": model_fields["rope_theta"],
        "llama.attention.layer_norm_rms_epsilon": model_fields["rms_norm_eps"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [1] * (len(TOKENS) - 1) + [3],
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.eos_token_id": len(TOKENS) - 1,
    }
    found |= {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in found.items() if value is not None}


def _add(writer: gguf.GGUFWriter, name: str, value) -> None:
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    {**add, list: writer.add_array, bool: writer.add_bool}[type(value)](name, value)
