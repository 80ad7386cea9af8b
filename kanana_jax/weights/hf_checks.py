"""What a Hugging Face folder must hold: every tensor of its config.json once, and no other.

Two kinds are passed over: layers that only predict further tokens, and buffers that are computed
from config.json. Everything is checked on headers.
"""

import re
from typing import Any

import numpy as np

from kanana_jax import config
from kanana_jax.checkpoint.errors import CheckpointError, shown, some
from kanana_jax.weights import hf_config, hf_files, hf_names

BLOCK = 128
SCALE = "_scale_inv"
_BUFFERS = ("inv_freq", "original_inv_freq", "cos_cached", "sin_cached")
_EMBED, _HEAD = "model.embed_tokens.weight", "lm_head.weight"

_Entries = dict[str, hf_files.Entry]


def check_quantization(fields: dict[str, Any]) -> None:
    """Raises CheckpointError unless weights are plain or float8 in blocks."""
    quantization = fields.get("quantization_config")
    if quantization is None:
        return
    known = quantization if isinstance(quantization, dict) else {}
    got = (known.get("quant_method"), known.get("weight_block_size"))
    if got != ("fp8", [BLOCK, BLOCK]):
        raise CheckpointError(
            f"config.json: expected quantisation fp8 in blocks of [{BLOCK}, {BLOCK}], got "
            f"{shown(got[0])} with weight_block_size {shown(got[1])}; import unquantised weights"
        )


def predictor_names(entries: _Entries, fields: dict[str, Any], num_layers: int) -> list[str]:
    """Tensors of the layers after the last one, as far as config.json counts such layers.

    Where it does not count them, those with the projection that only predictors have.
    """
    counted = hf_config.num_predictor_layers(fields)
    after = {name: layer for name in entries if (layer := _layer(name)) >= num_layers}
    if counted is None:
        predictors = {layer for name, layer in after.items() if ".eh_proj." in name}
    else:
        predictors = range(num_layers, num_layers + counted)
    return [name for name, layer in after.items() if layer in predictors]


def _layer(name: str) -> int:
    found = re.match(r"model\.layers\.(\d{1,9})\.", name)
    return -1 if found is None else int(found[1])


def check_size(cfg: config.ModelConfig, entries: _Entries) -> None:
    """Raises CheckpointError when there cannot be enough tensors, before their names are made."""
    least = cfg.num_layers + 3 * cfg.num_moe_layers * cfg.num_experts
    if least > len(entries):
        raise CheckpointError(
            f"the tensors are not those of config.json: {cfg.num_layers} layers with "
            f"{cfg.num_experts} experts are more than {least} tensors, got {len(entries)}"
        )


def computed_names(cfg: config.ModelConfig, entries: _Entries) -> set[str]:
    """Tensors that follow from config.json or from another tensor, whether they are there or not.

    Raises CheckpointError when a head that config.json ties to the embedding is another matrix.
    """
    places = ["", *(f"layers.{layer}.self_attn." for layer in range(cfg.num_layers))]
    found = {f"model.{place}rotary_emb.{buffer}" for place in places for buffer in _BUFFERS}
    if not cfg.tie_embeddings or not {_EMBED, _HEAD} <= entries.keys():
        return found
    hf_files.check_dtypes({name: entries[name] for name in (_EMBED, _HEAD)})
    embed, head = (entries[name].read().ravel() for name in (_EMBED, _HEAD))
    if embed.dtype != head.dtype or not np.array_equal(embed.view(np.uint8), head.view(np.uint8)):
        raise CheckpointError(
            f"config.json: tie_word_embeddings is true, but {_HEAD} is not {_EMBED}; set it to "
            "false"
        )
    return found | {_HEAD}


def check_tensors(leaves: dict[str, hf_names.Leaf], entries: _Entries) -> None:
    """Raises CheckpointError unless names, dtypes and shapes are those of `leaves`."""
    _check_names(leaves, entries)
    hf_files.check_dtypes(entries)
    for leaf in leaves.values():
        for tensor in leaf.tensors:
            entry = entries[tensor.name]
            check_shape(tensor.name, tensor.shape, entry.shape)
            if entry.is_float8:
                if len(tensor.shape) != 2:
                    raise CheckpointError(f"{tensor.name} is no matrix, so it cannot be float8")
                blocks = tuple(-(-size // BLOCK) for size in tensor.shape)
                check_shape(tensor.name + SCALE, blocks, entries[tensor.name + SCALE].shape)


def _check_names(leaves: dict[str, hf_names.Leaf], entries: _Entries) -> None:
    wanted = {tensor.name for leaf in leaves.values() for tensor in leaf.tensors}
    wanted |= {name + SCALE for name in wanted if name in entries and entries[name].is_float8}
    missing, unknown = sorted(wanted - entries.keys()), sorted(entries.keys() - wanted)
    problems = [f"missing {some(missing)}"] if missing else []
    problems += [f"not of this architecture: {some(unknown)}"] if unknown else []
    if problems:
        raise CheckpointError(
            f"the tensors are not those of config.json: {'; '.join(problems)}; expected "
            f"{len(wanted)}, got {len(entries)}"
        )


def check_shape(name: str, wanted: tuple[int, ...], got: tuple[int, ...]) -> None:
    if wanted != got:
        raise CheckpointError(f"{name} must have shape {wanted} by config.json, got {got}")
