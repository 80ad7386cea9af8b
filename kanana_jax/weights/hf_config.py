"""ModelConfig to and from the config.json of a DeepseekV3ForCausalLM.

A model with a scalar head is a DeepseekV3ForSequenceClassification with one label, which reads the
head at a text's last token; its files here have the vocabulary's head too, from which training goes
on.

A field that changes the logits is either mapped or has one meaning here; any other value of it is
refused. A mapped field that is absent is an error, not a default.
"""

import re
import typing
from typing import Any

from kanana_jax import config
from kanana_jax.checkpoint.errors import CheckpointError, shown

ARCHITECTURE = "DeepseekV3ForCausalLM"
WITH_SCALARS = "DeepseekV3ForSequenceClassification"
_MODEL_TYPES = ("deepseek_v3", "kimi_k2")

# Ours to theirs.
_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_dense_layers": "first_k_dense_replace",
    "num_heads": "num_attention_heads",
    "q_lora_rank": "q_lora_rank",
    "kv_lora_rank": "kv_lora_rank",
    "qk_nope_head_dim": "qk_nope_head_dim",
    "qk_rope_head_dim": "qk_rope_head_dim",
    "v_head_dim": "v_head_dim",
    "intermediate_size": "intermediate_size",
    "moe_intermediate_size": "moe_intermediate_size",
    "num_experts": "n_routed_experts",
    "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
    "num_expert_groups": "n_group",
    "num_groups_per_token": "topk_group",
    "norm_topk_prob": "norm_topk_prob",
    "routed_scaling_factor": "routed_scaling_factor",
    "rms_norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}
# What this model does; the family's published files may leave these out.
_FIXED = {
    "attention_bias": False,
    "hidden_act": "silu",
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
}
_YARN = {
    "factor": "factor",
    "original_max_positions": "original_max_position_embeddings",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
}
# The values at which a further field changes nothing.
_ROPE_FIXED = {"partial_rotary_factor": 1.0}
_YARN_FIXED = _ROPE_FIXED | {
    "attention_factor": None,
    "attn_factor": 1.0,
    "extrapolation_factor": 1.0,
    "truncate": True,
}
_ROPE_NOTES = {"type", "rope_type", "rope_theta", "finetuned"}
_ROPE_KINDS = {"default": "default", "yarn": "yarn", "deepseek_yarn": "yarn"}
# Read elsewhere, or about how the files were written.
_NOT_KEPT = {
    "architectures",
    "auto_map",
    "dtype",
    "head_dim",
    "initializer_range",
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


def from_hf(fields: dict[str, Any]) -> config.ModelConfig:
    """Raises CheckpointError on another architecture and on a field that is absent or unusable."""
    _check_architecture(fields)
    wanted = _FIXED | _ROPE_FIXED | {"num_key_value_heads": fields.get("num_attention_heads")}
    _check_fixed("", fields, wanted)
    theta, yarn = _rope(fields)
    missing = [name for name in _FIELDS.values() if name not in fields]
    missing += ["rope_theta"] if theta is None else []
    if missing:
        raise CheckpointError(f"config.json lacks {', '.join(missing)}; add what the model needs")
    values = {ours: fields[theirs] for ours, theirs in _FIELDS.items()}
    values |= {"rope_theta": theta, "scalar_head": _has_scalars(fields)}
    if fields.get("initializer_range") is not None:
        values["init_std"] = fields["initializer_range"]
    _check_types(config.ModelConfig, values, _FIELDS | {"init_std": "initializer_range"})
    try:
        return config.ModelConfig(**values, yarn=yarn)
    except config.ConfigError as error:
        raise CheckpointError(f"config.json: {_in_their_words(str(error))}") from None


def _check_architecture(fields: dict[str, Any]) -> None:
    got = fields.get("architectures")
    # A configuration saved without its model has only the type.
    known = ([ARCHITECTURE], [WITH_SCALARS])
    is_known = fields.get("model_type") in _MODEL_TYPES if got is None else got in known
    if not is_known:
        raise CheckpointError(
            f"config.json: expected architectures ['{ARCHITECTURE}'], got {shown(got)}; only this "
            "family can be imported"
        )


def _has_scalars(fields: dict[str, Any]) -> bool:
    if fields.get("architectures") != [WITH_SCALARS]:
        return False
    labels = fields.get("id2label", {"0": ""})  # transformers writes them in the place of a number
    got = fields.get("num_labels", len(labels) if isinstance(labels, dict) else labels)
    if got != 1:
        raise CheckpointError(
            f"config.json: expected one label, a reward, got num_labels {shown(got)}; only a "
            "scalar head can be imported"
        )
    return True


def extra_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """What the model does not need but an export writes back: token ids, longest context, ..."""
    mapped = {*_FIELDS.values(), *_FIXED, *_NOT_KEPT}
    return {name: value for name, value in fields.items() if name not in mapped}


def to_hf(cfg: config.ModelConfig, extra: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The config.json of `cfg`, which must have no part that the architecture lacks."""
    if cfg.zero_centered_gamma:
        raise CheckpointError(
            "expected zero_centered_gamma false, got true: the architecture's norms multiply by "
            "gamma; add 1 to every gamma first"
        )
    if cfg.swiglu_clamp is not None:
        raise CheckpointError(
            f"expected swiglu_clamp none, got {cfg.swiglu_clamp:g}: the architecture clips nothing "
            "and would compute other logits; keep the model folder, or train on without a clamp"
        )
    if "max_position_embeddings" not in extra:
        raise CheckpointError(
            "the longest context is not known; give it as --max-position-embeddings"
        )
    fields = {theirs: getattr(cfg, ours) for ours, theirs in _FIELDS.items()}
    if cfg.scalar_head:
        fields |= {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    fields |= _FIXED | {
        "architectures": [WITH_SCALARS if cfg.scalar_head else ARCHITECTURE],
        "model_type": "deepseek_v3",
        "num_key_value_heads": cfg.num_heads,
        "initializer_range": cfg.init_std,
        "num_nextn_predict_layers": 0,
        "rope_interleave": True,
        "rope_theta": cfg.rope_theta,
        "rope_scaling": _yarn_to(cfg.yarn),
        "torch_dtype": dtype,
    }
    return extra | fields


def num_predictor_layers(fields: dict[str, Any]) -> int:
    """Layers after the last one that only predict further tokens; this model has none."""
    names = ("num_nextn_predict_layers", "num_mtp_layers")
    name = next((name for name in names if fields.get(name) is not None), None)
    if name is None:
        return 0
    if type(fields[name]) is not int or fields[name] < 0:
        raise CheckpointError(
            f"config.json: {name} must be a number of layers, got {shown(fields[name])}"
        )
    return fields[name]


def is_rope_interleaved(fields: dict[str, Any]) -> bool:
    """Whether neighbours form a rotary pair; absent in the family's own files, where they do."""
    return fields.get("rope_interleave") in (None, True)


def _rope(fields: dict[str, Any]) -> tuple[Any, config.YarnConfig | None]:
    """(theta, scaling), which transformers 5 writes as one field and 4 as two.

    Where a file says one of them twice, it must say the same.
    """
    places = []
    for name in ("rope_parameters", "rope_scaling"):
        if not isinstance(fields.get(name, {}), dict | None):
            raise CheckpointError(
                f"config.json: {name} must be an object or null, got {shown(fields[name])}"
            )
        if fields.get(name):
            places.append({key: x for key, x in fields[name].items() if x is not None})
    thetas = [place.get("rope_theta") for place in [*places, fields]]
    thetas = [theta for theta in thetas if theta is not None]
    yarns = [_yarn_from(place) for place in places if place.keys() - {"rope_theta"}]
    for said in (thetas, yarns):
        if any(one != said[0] for one in said):
            raise CheckpointError(
                f"config.json: rope_parameters, rope_scaling and rope_theta differ, got {said[0]} "
                f"and {said[-1]}; leave the right one"
            )
    return thetas[0] if thetas else None, yarns[0] if yarns else None


def _yarn_from(scaling: dict[str, Any]) -> config.YarnConfig | None:
    said = [scaling[name] for name in ("rope_type", "type") if name in scaling]
    kinds = {_ROPE_KINDS.get(one) if isinstance(one, str) else None for one in said}
    if kinds not in ({"default"}, {"yarn"}):
        raise CheckpointError(
            f"config.json: expected rope scaling 'yarn' or none, got "
            f"{' and '.join(map(shown, said)) or 'no rope_type'}"
        )
    if kinds == {"default"}:
        _check_fixed("rope scaling: ", scaling, _ROPE_FIXED)
        return None
    _check_fixed("rope scaling: ", scaling, _YARN_FIXED)
    unknown = sorted(scaling.keys() - {*_YARN.values(), *_YARN_FIXED, *_ROPE_NOTES})
    if unknown:
        raise CheckpointError(f"config.json: rope scaling has unknown fields {', '.join(unknown)}")
    missing = [name for name in list(_YARN.values())[:2] if name not in scaling]
    if missing:
        raise CheckpointError(f"config.json: rope scaling lacks {', '.join(missing)}")
    # Absent mscales are 0: that is what the published code reads.
    values: dict[str, Any] = {"mscale": 0.0, "mscale_all_dim": 0.0}
    values |= {ours: scaling[theirs] for ours, theirs in _YARN.items() if theirs in scaling}
    _check_types(config.YarnConfig, values, _YARN)
    try:
        return config.YarnConfig(**values)
    except config.ConfigError as error:
        raise CheckpointError(f"config.json: {_in_their_words(str(error))}") from None


def _yarn_to(yarn: config.YarnConfig | None) -> dict[str, Any] | None:
    if yarn is None:
        return None
    fields = {theirs: getattr(yarn, ours) for ours, theirs in _YARN.items()}
    is_absent = {name for name in ("mscale", "mscale_all_dim") if not fields[name]}
    return {"type": "yarn"} | {k: v for k, v in fields.items() if k not in is_absent}


def _in_their_words(line: str) -> str:
    names = _FIELDS | _YARN | {"init_std": "initializer_range"}
    return re.sub(r"model\.(?:yarn\.)?(\w+)", lambda ours: names.get(ours[1], ours[1]), line)


def _check_fixed(where: str, fields: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        if fields.get(name) not in (None, value):
            raise CheckpointError(
                f"config.json: {where}{name} must be {value!r} or absent, got "
                f"{shown(fields[name])}; this model has no other kind"
            )


def _check_types(kind: type, values: dict[str, Any], names: dict[str, str]) -> None:
    hints = typing.get_type_hints(kind)
    for ours, value in values.items():
        expected = typing.get_args(hints[ours]) or (hints[ours],)
        # JSON has one kind of number, and Python calls true an int.
        accepted = (*expected, int) if float in expected else expected
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in expected):
            kinds = " or ".join(x.__name__ for x in expected)
            raise CheckpointError(
                f"config.json: {names.get(ours, ours)} must be {kinds}, got {shown(value)}"
            )
