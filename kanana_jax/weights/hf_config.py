"""ModelConfig to and from the config.json of the architectures that this model can be.

A model with a scalar head is a ...ForSequenceClassification with one label, which reads the head at
the last token of a text. Its files here have the vocabulary's head too, from which training goes
on.

A field that changes the logits is either mapped or has one value here; any other value is refused.
An absent mapped field is an error, unless all readers of the architecture fill it in alike.
"""

from typing import Any

from kanana_jax import config
from kanana_jax.checkpoint.errors import CheckpointError, shown
from kanana_jax.weights import hf_architectures, hf_fields, hf_rope
from kanana_jax.weights.hf_architectures import Architecture

# Read elsewhere, or about how the files were written.
_NOT_KEPT = {
    "architectures",
    "auto_map",
    "dtype",
    "head_dim",
    "initializer_range",
    "layer_types",
    "mlp_layer_types",
    "model_type",
    "num_key_value_heads",
    "num_mtp_layers",
    "num_nextn_predict_layers",
    "partial_rotary_factor",
    "qk_head_dim",
    "quantization_config",
    "rope_interleave",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "torch_dtype",
    "transformers_version",
}


# Given for the whole model, and again for its language model.
_SAID_TWICE = ("quantization_config", "tie_word_embeddings")


def text_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The language model's fields, where config.json has a text_config; else all fields."""
    text = fields.get("text_config")
    if text is None:
        return fields
    if not isinstance(text, dict):
        raise CheckpointError(f"config.json: text_config must be an object, got {shown(text)}")
    outside = {name: fields[name] for name in _SAID_TWICE if fields.get(name) is not None}
    for name, value in outside.items():
        if text.get(name, value) != value:
            raise CheckpointError(
                f"config.json: {name} is {shown(value)}, but {shown(text[name])} in text_config; "
                "leave the right one"
            )
    return text | outside


def from_hf(fields: dict[str, Any]) -> config.ModelConfig:
    """Raises CheckpointError on another architecture and on a field that is absent or unusable."""
    known = architecture(fields)
    same = {name: fields.get(other) for name, other in known.same.items()}
    hf_fields.check_fixed("", fields, known.fixed | hf_rope.FIXED | same)
    _check_layer_types(fields)
    theta, extension = hf_rope.read(fields, known.rope_kinds)
    filled = dict(fields)
    for name, value in known.defaults(fields).items():
        if fields.get(name) is None:
            filled[name] = value
    missing = [name for name in known.names.values() if name not in filled]
    missing += ["rope_theta"] if theta is None else []
    if missing:
        raise CheckpointError(f"config.json lacks {', '.join(missing)}; add what the model needs")
    values = {ours: filled[theirs] for ours, theirs in known.names.items()}
    values |= known.implied(values) | extension
    values |= {"rope_theta": theta, "scalar_head": _has_scalars(fields)}
    if fields.get("initializer_range") is not None:
        values["init_std"] = fields["initializer_range"]
    names = known.names | {"init_std": "initializer_range"}
    cfg = hf_fields.make(config.ModelConfig, values, names)
    _check_amplitude(known, cfg)
    return cfg


def architecture(fields: dict[str, Any]) -> Architecture:
    got = fields.get("architectures")
    for known in hf_architectures.ALL:
        if got in ([known.name], [known.with_scalars]):
            return known
        # A configuration saved without its model has only the type.
        if got is None and fields.get("model_type") in known.model_types:
            return known
    names = " or ".join(f"['{known.name}']" for known in hf_architectures.ALL)
    raise CheckpointError(
        f"config.json: expected architectures {names}, got {shown(got)}; no other can be imported"
    )


def _has_scalars(fields: dict[str, Any]) -> bool:
    if fields.get("architectures") not in [[known.with_scalars] for known in hf_architectures.ALL]:
        return False
    labels = fields.get("id2label", {"0": ""})  # transformers writes them in place of a number
    got = fields.get("num_labels", len(labels) if isinstance(labels, dict) else labels)
    if got != 1:
        raise CheckpointError(
            f"config.json: expected one label, a reward, got num_labels {shown(got)}; only a "
            "scalar head can be imported"
        )
    return True


def _check_layer_types(fields: dict[str, Any]) -> None:
    kinds = fields.get("layer_types") or []
    others = [one for one in kinds if one != "full_attention"] if isinstance(kinds, list) else kinds
    if others:
        raise CheckpointError(
            f"config.json: layer_types must be 'full_attention' or absent, got {shown(kinds)}; "
            "this model has no other kind"
        )


def _check_amplitude(known: Architecture, cfg: config.ModelConfig) -> None:
    """For YaRN, DeepSeek scales logits by mscale fields, others cosine and sine by the factor."""
    if known.is_latent or cfg.yarn is None:
        return
    for name in ("mscale", "mscale_all_dim"):
        if getattr(cfg.yarn, name):
            raise CheckpointError(
                f"rope scaling: expected {name} 0 or absent, got {getattr(cfg.yarn, name)}: "
                f"{known.name} does not read it"
            )


def extra_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields not needed by the model that an export writes back: token ids, longest context, ..."""
    known = architecture(fields)
    mapped = {*known.names.values(), *known.fixed, *_NOT_KEPT}
    return {name: value for name, value in fields.items() if name not in mapped}


def to_hf(cfg: config.ModelConfig, extra: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The config.json of `cfg`, which must have no part that the architecture lacks."""
    known = hf_architectures.QWEN3 if cfg.qk_norm else hf_architectures.LLAMA
    if cfg.kv_lora_rank is not None:
        known = hf_architectures.DEEPSEEK
    if cfg.audio is not None:
        raise CheckpointError(
            "expected a model of text or images, got one with model.audio: no published layout has "
            "such an encoder of sounds; keep the model folder"
        )
    if cfg.zero_centered_gamma or cfg.norm_gain != "vector":
        raise CheckpointError(
            "expected zero_centered_gamma false and norm_gain vector, got "
            f"{str(cfg.zero_centered_gamma).lower()} and {cfg.norm_gain}: the architecture's norms "
            "multiply by a vector; make that first, with convert --vector-gains"
        )
    if cfg.swiglu_clamp is not None:
        raise CheckpointError(
            f"expected swiglu_clamp none, got {cfg.swiglu_clamp:g}: the architecture clips nothing "
            "and would compute other logits; keep the model folder, or train on without a clamp"
        )
    values = {ours: getattr(cfg, ours) for ours in known.names}
    for name, value in known.implied(values).items():
        if getattr(cfg, name) != value:
            raise CheckpointError(
                f"expected {name} {value}, got {getattr(cfg, name)}: {known.name} has no other; "
                "keep the model folder"
            )
    _check_amplitude(known, cfg)
    if "max_position_embeddings" not in extra:
        raise CheckpointError(
            "the longest context is not known; give it as --max-position-embeddings"
        )
    fields = {theirs: values[ours] for ours, theirs in known.names.items()}
    fields |= {name: fields[other] for name, other in known.same.items()}
    if cfg.scalar_head:
        fields |= {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    fields |= known.fixed | known.written | hf_rope.write(cfg)
    fields |= {
        "architectures": [known.with_scalars if cfg.scalar_head else known.name],
        "model_type": known.model_types[0],
        "initializer_range": cfg.init_std,
        "torch_dtype": dtype,
    }
    return extra | fields


def num_predictor_layers(fields: dict[str, Any]) -> int | None:
    """Layers after the last one that only predict further tokens; None: the file does not say."""
    names = ("num_nextn_predict_layers", "num_mtp_layers")
    name = next((name for name in names if fields.get(name) is not None), None)
    if name is None:
        return None
    if type(fields[name]) is not int or fields[name] < 0:
        raise CheckpointError(
            f"config.json: {name} must be a number of layers, got {shown(fields[name])}"
        )
    return fields[name]


def is_rope_interleaved(fields: dict[str, Any]) -> bool:
    """Whether rotary columns are laid out as in this model.

    DeepSeek's pairs are neighbours unless a file says otherwise; its own files do not.
    """
    return not architecture(fields).is_latent or fields.get("rope_interleave") in (None, True)
