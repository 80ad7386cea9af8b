"""Imports GGUF files of Llama's architecture (extra `gguf`); quantised weights become float32.

A file is read as the Hugging Face folder that it was made from: its fields as a config.json, its
tensors under their names there, its tokenizer as tokenizer files. So the same checks hold.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from kanana_jax import config, extras
from kanana_jax.checkpoint.errors import CheckpointError, first_line, shown, some
from kanana_jax.model import rope
from kanana_jax.weights import gguf_tokenizer, hf, hf_checks, hf_config, hf_names, native

_ARCHITECTURE = "llama"
_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")

# GGUF's fields to those of a config.json.
_FIELDS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
_OPTIONAL = {"attention.head_count_kv", "attention.key_length"}
# Fields that repeat another, or have no effect at this value.
_AGAIN = {"attention.value_length": "head_dim", "rope.dimension_count": "head_dim"}
_FIXED = {"expert_count": 0, "expert_used_count": 0, "rope.scaling.type": "none"}

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# The divisors of slow rotary pairs, which the fields do not mention.
_ROPE_FACTORS = "rope_freqs.weight"
# Llama 3.1's; a file's factors are checked against these.
_LLAMA3_ROPE = {"original_max_position_embeddings": 8192, "low_freq_factor": 1.0}
_LLAMA3_ROPE |= {"high_freq_factor": 4.0, "rope_type": "llama3"}


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A tensor with the interface of `hf_files.Entry`."""

    file: Path
    tensor: Any  # gguf.ReaderTensor
    num_heads: int | None  # of a projection whose rotary pairs are neighbours here

    @property
    def code(self) -> str:
        return "BF16" if self.tensor.tensor_type.name == "BF16" else "F32"

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(ml_dtypes.bfloat16 if self.code == "BF16" else np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self.tensor.shape))

    def read(self) -> np.ndarray:
        from gguf import quants  # pyright: ignore[reportMissingImports]

        x = quants.dequantize(self.tensor.data, self.tensor.tensor_type)
        x = x.reshape(self.shape).astype(self.dtype)
        if self.num_heads is None:
            return x
        return x.reshape(self.num_heads, -1, 2, x.shape[-1]).swapaxes(1, 2).reshape(x.shape)


def import_file(
    source: Path,
    target: Path,
    *,
    dtype: str | None = None,
    on_tensor: hf.OnTensor = lambda num_bytes: None,
) -> None:
    """Writes `target`, a model folder, from a file; raises CheckpointError."""
    metadata, tensors = _read(source)
    opened = _open(source, metadata, tensors)
    texts = gguf_tokenizer.files(source, metadata)
    with native.new_directory(target) as folder:
        hf.write_native(opened, folder, dtype=dtype, on_tensor=on_tensor)
        for name, text in texts.items():
            (folder / name).write_text(text)


def _read(source: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields and tensors by name; the tensors' numbers stay in the file."""
    with extras.needed("train", "gguf"):
        import gguf  # pyright: ignore[reportMissingImports]
    if not source.is_file():
        raise CheckpointError(f"expected a GGUF file, got {source}, which is none")
    try:
        reader = gguf.GGUFReader(source)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # what damaged bytes raise has no common type
        raise CheckpointError(
            f"{source} is no GGUF file, damaged or cut short ({first_line(error)}); copy it again"
        ) from None
    return metadata, {tensor.name: tensor for tensor in reader.tensors}


def _open(source: Path, metadata: dict[str, Any], tensors: dict[str, Any]) -> hf.Opened:
    fields = _fields(source, metadata, tensors)
    cfg = hf_config.from_hf(fields)
    wrong = [
        f"{name} ({tensor.tensor_type.name})"
        for name, tensor in tensors.items()
        if tensor.tensor_type.name not in _TYPES
    ]
    if wrong:
        raise CheckpointError(
            f"{source}: expected tensors of {', '.join(_TYPES)}, got {some(wrong)}"
        )
    heads = {"attn_q": cfg.num_heads, "attn_k": cfg.num_kv_heads}
    entries: dict[str, Any] = {
        _their_name(name): _Entry(source, tensor, heads.get(_part(name)))
        for name, tensor in tensors.items()
        if name != _ROPE_FACTORS
    }
    hf_checks.check_size(cfg, entries)
    leaves = hf_names.leaves(cfg)
    hf_checks.check_tensors(leaves, entries)
    if _ROPE_FACTORS in tensors:
        _check_rope_factors(cfg, _Entry(source, tensors[_ROPE_FACTORS], None).read())
    extra = hf_config.extra_fields(fields)
    return hf.Opened(cfg, extra, leaves, [], entries, is_interleaved=True)


def _part(name: str) -> str:
    """The part of a layer that a tensor belongs to; "" outside of layers."""
    found = re.fullmatch(r"blk\.\d+\.(\w+)\.weight", name)
    return "" if found is None else found[1]


def _their_name(name: str) -> str:
    part = _part(name)
    if part in _OF_LAYER:
        return f"model.layers.{name.split('.')[1]}.{_OF_LAYER[part]}.weight"
    return _TOP.get(name, name)


def _fields(source: Path, metadata: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """The config.json that the file would have; raises CheckpointError with the field's name."""
    if metadata.get("general.architecture") != _ARCHITECTURE:
        raise CheckpointError(
            f"{source}: expected general.architecture '{_ARCHITECTURE}', got "
            f"{shown(metadata.get('general.architecture'))}; no other can be imported"
        )
    prefix = f"{_ARCHITECTURE}."
    given = {k.removeprefix(prefix): x for k, x in metadata.items() if k.startswith(prefix)}
    missing = [f"{prefix}{name}" for name in _FIELDS if name not in {*given, *_OPTIONAL}]
    missing += [name for name in ("token_embd.weight",) if name not in tensors]
    if missing:
        raise CheckpointError(f"{source} lacks {', '.join(missing)}")
    fields: dict[str, Any] = {
        theirs: given[name] for name, theirs in _FIELDS.items() if name in given
    }
    for name, value in fields.items():
        if isinstance(value, float):  # the shortest number that is this float32
            fields[name] = float(str(np.float32(value)))
    hidden, heads = fields["hidden_size"], fields["num_attention_heads"]
    if type(hidden) is not int or type(heads) is not int or heads < 1:
        raise CheckpointError(
            f"{source}: expected one positive {prefix}attention.head_count and "
            f"{prefix}embedding_length, got {shown(heads)} and {shown(hidden)}"
        )
    fields.setdefault("head_dim", hidden // heads)
    wanted = _FIXED | {name: fields[theirs] for name, theirs in _AGAIN.items()}
    wanted["vocab_size"] = vocab_size = int(tensors["token_embd.weight"].shape[-1])
    for name in given.keys() - _FIELDS.keys():
        if name not in wanted or given[name] != wanted[name]:
            raise CheckpointError(
                f"{source}: {prefix}{name} must be {wanted.get(name, 'absent')}, got "
                f"{shown(given[name])}; this model has no other kind"
            )
    fields |= gguf_tokenizer.ids(metadata)
    if _ROPE_FACTORS in tensors:
        factor = float(np.max(tensors[_ROPE_FACTORS].data))
        fields["rope_scaling"] = _LLAMA3_ROPE | {"factor": factor}
    return fields | {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocab_size,
        "tie_word_embeddings": "output.weight" not in tensors,
    }


def _check_rope_factors(cfg: config.ModelConfig, factor_r: np.ndarray) -> None:
    plain = dataclasses.replace(cfg, llama3_rope=None)
    want_r = rope.frequencies(plain) / rope.frequencies(cfg)
    if factor_r.shape != want_r.shape or not np.allclose(factor_r, want_r, rtol=1e-4):
        raise CheckpointError(
            f"{_ROPE_FACTORS} must be the factors of Llama 3.1's rope, got others; this model has "
            "no other kind"
        )
