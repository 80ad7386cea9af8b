"""What a Hugging Face folder must hold: every tensor of its config.json once, and no other.

Three kinds are passed over: parts besides the language model, layers that only predict further
tokens, and buffers that are computed from config.json. Everything is checked on headers.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from kanana_jax import config
from kanana_jax.checkpoint.errors import CheckpointError, some
from kanana_jax.weights import hf_config, hf_files, hf_names, hf_quantized

_BUFFERS = ("inv_freq", "original_inv_freq", "cos_cached", "sin_cached")
_PART = re.compile(r"model\.layers\.\d+|[^.]*")
_EMBED, _HEAD = "model.embed_tokens.weight", "lm_head.weight"

_Entries = dict[str, hf_files.Entry]
_Stored = Mapping[str, hf_quantized.Stored]


def of_text(entries: _Entries) -> tuple[_Entries, _Entries]:
    """The tensors of the language model, named as if it stood alone, and the others.

    Its tensors share the prefix of its embedding's name.
    """
    found = [name.removesuffix(_EMBED) for name in entries if name.endswith(_EMBED)]
    if len(found) != 1:
        raise CheckpointError(
            f"expected one tensor whose name ends in {_EMBED}, for config.json has a text_config; "
            f"got {some(found) or 'none'}"
        )
    (prefix,) = found
    is_inside = {name: name.startswith(prefix) for name in entries}
    inside = {name.removeprefix(prefix): x for name, x in entries.items() if is_inside[name]}
    return inside, {name: x for name, x in entries.items() if not is_inside[name]}


def predictor_names(entries: _Entries, fields: dict[str, Any], num_layers: int) -> list[str]:
    """Tensors of the layers after the last one, of as many as config.json counts.

    Where it does not count them, tensors of the layers with the projection that only predictors
    have.
    """
    counted = hf_config.num_predictor_layers(fields)
    after = {name: layer for name in entries if (layer := _layer(name)) >= num_layers}
    if counted is None:
        predictors = {layer for name, layer in after.items() if ".eh_proj." in name}
    else:
        predictors = range(num_layers, num_layers + counted)
    return [name for name, layer in after.items() if layer in predictors]


def parts_of(names: list[str]) -> list[str]:
    """The parts of a model that tensors belong to: a layer, or the first component of the name."""
    return list(dict.fromkeys(part for name in names for part in _PART.findall(name)[:1]))


def _layer(name: str) -> int:
    found = re.match(r"model\.layers\.(\d{1,9})\.", name)
    return -1 if found is None else int(found[1])


def check_size(cfg: config.ModelConfig, entries: Mapping[str, Any]) -> None:
    """Raises CheckpointError when there cannot be enough tensors, before their names are made."""
    least = cfg.num_layers + 3 * cfg.num_moe_layers * cfg.num_experts
    if least > len(entries):
        raise CheckpointError(
            f"the tensors are not those of config.json: {cfg.num_layers} layers with "
            f"{cfg.num_experts} experts are more than {least} tensors, got {len(entries)}"
        )


def computed_names(cfg: config.ModelConfig, entries: _Entries) -> set[str]:
    """Tensors that follow from config.json or from another tensor, whether they are there or not.

    Raises CheckpointError when a head that config.json ties to the embedding differs from it.
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


def check_tensors(leaves: dict[str, hf_names.Leaf], entries: _Stored) -> None:
    """Raises CheckpointError unless names, dtypes and shapes are those of `leaves`."""
    wanted = {tensor.name for leaf in leaves.values() for tensor in leaf.tensors}
    hf_files.check_dtypes({name: entries[name] for name in wanted & entries.keys()})
    _check_names(wanted, entries)
    for leaf in leaves.values():
        for tensor in leaf.tensors:
            check_shape(tensor.name, tensor.shape, entries[tensor.name].shape)


def _check_names(wanted: set[str], entries: _Stored) -> None:
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
