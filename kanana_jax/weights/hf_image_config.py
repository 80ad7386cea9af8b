"""The config.json of a language model with an encoder of images, as Kimi K2.5's is.

    {"model_type": "kimi_k25", "text_config": {...}, "vision_config": {...}, "image_token_id": ...}

Published files and transformers name fields of vision_config differently. Both names are read, and
both are written. An image is one frame; clips of more frames cannot be read here.
"""

from typing import Any

from kanana_jax.checkpoint.errors import CheckpointError, shown
from kanana_jax.config import ModelConfig, VisionConfig
from kanana_jax.weights import hf_fields

EXTRA = "images"  # among the fields that a model folder keeps for an export
_MODEL_TYPE, _ARCHITECTURE = "kimi_k25", "KimiK25ForConditionalGeneration"
_READ = {"architectures", "model_type", "text_config", "vision_config"}
# Ours: transformers' name, and the published one.
_NAMES = {
    "patch_size": ("patch_size", "patch_size"),
    "hidden_size": ("hidden_size", "vt_hidden_size"),
    "num_layers": ("num_hidden_layers", "vt_num_hidden_layers"),
    "num_heads": ("num_attention_heads", "vt_num_attention_heads"),
    "intermediate_size": ("intermediate_size", "vt_intermediate_size"),
    "position_grid": ("pos_emb_height", "init_pos_emb_height"),
}
_WIDTH = ("pos_emb_width", "init_pos_emb_width")
_EPS, _EPS_PUBLISHED = "projection_layer_norm_eps", "projector_ln_eps"
_FIXED = {
    "hidden_act": "gelu_pytorch_tanh",
    "merge_type": "sd2_tpool",
    "mm_projector_type": "patchmerger",
    "projector_hidden_act": "gelu",
    "pos_emb_type": "divided_fixed",
}
_NORM_EPS = 1e-5  # of the encoder, in no file


def from_hf(whole: dict[str, Any]) -> VisionConfig:
    """The encoder's shape. CheckpointError where there is none, or one of another kind."""
    fields = whole.get("vision_config")
    if whole.get("model_type") != _MODEL_TYPE or not isinstance(fields, dict):
        raise CheckpointError(
            f"config.json: expected model_type '{_MODEL_TYPE}' with a vision_config, got "
            f"{shown(whole.get('model_type'))}; no other encoder of images can be imported, leave "
            "out --images for the language model alone"
        )
    hf_fields.check_fixed("vision_config: ", fields, _FIXED)
    values = {ours: _said(fields, names) for ours, names in _NAMES.items()}
    missing = [_NAMES[ours][0] for ours, value in values.items() if value is None]
    if missing:
        raise CheckpointError(f"config.json: vision_config lacks {', '.join(missing)}")
    width, merge = _said(fields, _WIDTH), fields.get("merge_kernel_size", [2, 2])
    if width not in (None, values["position_grid"]):
        raise CheckpointError(
            f"config.json: vision_config: expected a square grid of positions, got "
            f"{values['position_grid']} x {shown(width)}"
        )
    if not isinstance(merge, list) or len(merge) != 2 or merge[0] != merge[1]:
        raise CheckpointError(
            f"config.json: vision_config: merge_kernel_size must be two equal sizes, got "
            f"{shown(merge)}"
        )
    for eps in (whole.get(_EPS), fields.get(_EPS_PUBLISHED)):
        if eps not in (None, _NORM_EPS):
            raise CheckpointError(
                f"config.json: {_EPS} must be {_NORM_EPS} as the encoder's, got {shown(eps)}"
            )
    values |= {"merge_size": merge[0], "layer_norm_eps": _NORM_EPS}
    names = {ours: theirs for ours, (theirs, _) in _NAMES.items()}
    return hf_fields.make(VisionConfig, values, names | {"merge_size": "merge_kernel_size"})


def _said(fields: dict[str, Any], names: tuple[str, str]) -> Any:
    """A field that may have either name, or both with one value."""
    found = [fields[name] for name in names if fields.get(name) is not None]
    if any(one != found[0] for one in found):
        raise CheckpointError(
            f"config.json: vision_config: {names[0]} is {shown(found[0])}, but {names[1]} "
            f"{shown(found[-1])}; leave the right one"
        )
    return found[0] if found else None


def extra_fields(whole: dict[str, Any]) -> dict[str, Any]:
    """Fields that the model does not need but an export writes back, such as the id of images."""
    kept = {name: value for name, value in whole.items() if name not in _READ}
    kept.pop("quantization_config", None)  # it says how the files were written
    if "image_token_id" not in kept and "media_placeholder_token_id" in kept:
        kept["image_token_id"] = kept["media_placeholder_token_id"]
    return kept


def to_hf(cfg: ModelConfig, text: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """The whole config.json, with the language model's in it."""
    shape = cfg.vision
    assert shape is not None
    fixed = {"projector": "mlp", "num_channels": 3, "layer_norm_eps": _NORM_EPS}
    for name, value in fixed.items():
        if getattr(shape, name) != value:
            raise CheckpointError(
                f"expected model.vision.{name} {value}, got {getattr(shape, name)}: "
                f"{_MODEL_TYPE} has no other; keep the model folder"
            )
    if cfg.kv_lora_rank is None or cfg.scalar_head:
        raise CheckpointError(
            f"expected latent attention and no scalar head beside an encoder of images: "
            f"{_MODEL_TYPE} has no other; keep the model folder"
        )
    if "image_token_id" not in extra:
        raise CheckpointError(
            "the token id that stands for images is not known; give it as --image-token-id"
        )
    images: dict[str, Any] = {
        name: getattr(shape, ours) for ours, names in _NAMES.items() for name in names
    }
    images |= dict.fromkeys(_WIDTH, shape.position_grid) | _FIXED
    images |= {
        "model_type": "kimi_k25_vision",
        "merge_kernel_size": [shape.merge_size] * 2,
        "mm_hidden_size": shape.hidden_size,
        "text_hidden_size": cfg.hidden_size,
        _EPS_PUBLISHED: _NORM_EPS,
    }
    return extra | {
        "architectures": [_ARCHITECTURE],
        "model_type": _MODEL_TYPE,
        "tie_word_embeddings": cfg.tie_embeddings,
        "projection_hidden_size": shape.hidden_size,
        _EPS: _NORM_EPS,
        "media_placeholder_token_id": extra["image_token_id"],
        "text_config": text,
        "vision_config": images,
    }
