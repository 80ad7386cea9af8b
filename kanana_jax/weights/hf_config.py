"""ModelConfig to and from the config.json of the architectures that this model can be.

A model with a scalar head is a ...ForSequenceClassification with one label, which reads the head at
a text's last token; its files here have the vocabulary's head too, from which training goes on.

A field that changes the logits is either mapped or has one meaning here; any other value of it is
refused. A mapped field that is absent is an error, unless all readers of the architecture fill it
in alike.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from kanana_jax import config
from kanana_jax.checkpoint.errors import CheckpointError, shown
from kanana_jax.weights import hf_fields, hf_rope


class Architecture(NamedTuple):
    """How a config.json says what a model of one kind is."""

    name: str
    model_types: tuple[str, ...]  # the first is the one that is written
    names: dict[str, str]  # of mapped fields, ours to theirs
    fixed: dict[str, Any]  # what this model does; published files may leave these out
    rope_kinds: tuple[str, ...]
    # Fields that are another one, theirs to theirs.
    same: dict[str, str] = {}  # noqa: RUF012
    written: dict[str, Any] = {}  # noqa: RUF012
    # From the mapped fields, the settings that they imply.
    implied: Callable[[dict[str, Any]], dict[str, Any]] = lambda values: {}
    # From the fields in the file, what stands for those that are absent or null.
    defaults: Callable[[dict[str, Any]], dict[str, Any]] = lambda fields: {}

    @property
    def with_scalars(self) -> str:
        return self.name.replace("ForCausalLM", "ForSequenceClassification")


_COMMON = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "rms_norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}
_DEEPSEEK = Architecture(
    name="DeepseekV3ForCausalLM",
    model_types=("deepseek_v3", "kimi_k2"),
    names=_COMMON
    | {
        "num_dense_layers": "first_k_dense_replace",
        "q_lora_rank": "q_lora_rank",
        "kv_lora_rank": "kv_lora_rank",
        "qk_nope_head_dim": "qk_nope_head_dim",
        "qk_rope_head_dim": "qk_rope_head_dim",
        "v_head_dim": "v_head_dim",
        "moe_intermediate_size": "moe_intermediate_size",
        "num_experts": "n_routed_experts",
        "num_experts_per_token": "num_experts_per_tok",
        "num_shared_experts": "n_shared_experts",
        "num_expert_groups": "n_group",
        "num_groups_per_token": "topk_group",
        "norm_topk_prob": "norm_topk_prob",
        "routed_scaling_factor": "routed_scaling_factor",
    },
    fixed={
        "attention_bias": False,
        "hidden_act": "silu",
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "moe_layer_freq": 1,
    },
    rope_kinds=("yarn",),
    same={"num_key_value_heads": "num_attention_heads"},
    written={"num_nextn_predict_layers": 0, "rope_interleave": True},
)
_DENSE = _COMMON | {"num_kv_heads": "num_key_value_heads", "qk_rope_head_dim": "head_dim"}


def _dense(values: dict[str, Any], *, qk_norm: bool) -> dict[str, Any]:
    return {
        "num_dense_layers": values["num_layers"],
        "q_lora_rank": None,
        "kv_lora_rank": None,
        "qk_nope_head_dim": 0,
        "v_head_dim": values["qk_rope_head_dim"],
        "qk_norm": qk_norm,
    }


def _llama_defaults(fields: dict[str, Any]) -> dict[str, Any]:
    hidden, heads = fields.get("hidden_size"), fields.get("num_attention_heads")
    found = {"num_key_value_heads": heads}
    if type(hidden) is int and type(heads) is int and heads > 0:
        found["head_dim"] = hidden // heads
    return found


_LLAMA = Architecture(
    name="LlamaForCausalLM",
    model_types=("llama",),
    names=_DENSE,
    fixed={"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"},
    rope_kinds=("yarn", "llama3"),
    implied=lambda values: _dense(values, qk_norm=False),
    defaults=_llama_defaults,
)
_QWEN3 = Architecture(
    name="Qwen3ForCausalLM",
    model_types=("qwen3",),
    names=_DENSE,
    fixed={"attention_bias": False, "hidden_act": "silu", "use_sliding_window": False},
    rope_kinds=("yarn", "llama3"),
    implied=lambda values: _dense(values, qk_norm=True),
)
ARCHITECTURES = (_DEEPSEEK, _LLAMA, _QWEN3)

# Read elsewhere, or about how the files were written.
_NOT_KEPT = {
    "architectures",
    "auto_map",
    "dtype",
    "head_dim",
    "initializer_range",
    "layer_types",
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
    for known in ARCHITECTURES:
        if got in ([known.name], [known.with_scalars]):
            return known
        # A configuration saved without its model has only the type.
        if got is None and fields.get("model_type") in known.model_types:
            return known
    names = " or ".join(f"['{known.name}']" for known in ARCHITECTURES)
    raise CheckpointError(
        f"config.json: expected architectures {names}, got {shown(got)}; no other can be imported"
    )


def _has_scalars(fields: dict[str, Any]) -> bool:
    if fields.get("architectures") not in [[known.with_scalars] for known in ARCHITECTURES]:
        return False
    labels = fields.get("id2label", {"0": ""})  # transformers writes them in the place of a number
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
    """DeepSeek scales logits for YaRN by mscale fields, others cosine and sine by the factor."""
    if known is _DEEPSEEK or cfg.yarn is None:
        return
    for name in ("mscale", "mscale_all_dim"):
        if getattr(cfg.yarn, name):
            raise CheckpointError(
                f"rope scaling: expected {name} 0 or absent, got {getattr(cfg.yarn, name)}: "
                f"{known.name} does not read it"
            )


def extra_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """What the model does not need but an export writes back: token ids, longest context, ..."""
    known = architecture(fields)
    mapped = {*known.names.values(), *known.fixed, *_NOT_KEPT}
    return {name: value for name, value in fields.items() if name not in mapped}


def to_hf(cfg: config.ModelConfig, extra: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The config.json of `cfg`, which must have no part that the architecture lacks."""
    known = _DEEPSEEK if cfg.kv_lora_rank is not None else _QWEN3 if cfg.qk_norm else _LLAMA
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
    """Whether rotary columns lie as this model has them.

    DeepSeek's pairs are neighbours unless a file says otherwise, which its own do not.
    """
    return architecture(fields) is not _DEEPSEEK or fields.get("rope_interleave") in (None, True)
