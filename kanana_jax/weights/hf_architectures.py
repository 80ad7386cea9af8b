"""The architectures that this model can be, described by the fields of their config.json."""

from collections.abc import Callable
from typing import Any, NamedTuple

from kanana_jax.checkpoint.errors import CheckpointError, shown


class Architecture(NamedTuple):
    """How the config.json of one architecture describes a model."""

    name: str
    model_types: tuple[str, ...]  # the first is the one that is written
    names: dict[str, str]  # of mapped fields, ours to theirs
    fixed: dict[str, Any]  # what this model does; published files may leave these out
    rope_kinds: tuple[str, ...]
    # Fields that repeat another, theirs to theirs.
    same: dict[str, str] = {}  # noqa: RUF012
    written: dict[str, Any] = {}  # noqa: RUF012
    # From the mapped fields, the settings that they imply.
    implied: Callable[[dict[str, Any]], dict[str, Any]] = lambda values: {}
    # From the fields in the file, values for those that are absent or null.
    defaults: Callable[[dict[str, Any]], dict[str, Any]] = lambda fields: {}

    @property
    def is_latent(self) -> bool:
        return "kv_lora_rank" in self.names

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
DEEPSEEK = Architecture(
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


def _dense_layers(fields: dict[str, Any]) -> dict[str, Any]:
    """Reads the list that transformers 5 writes: dense layers, then those with experts."""
    kinds = fields.get("mlp_layer_types")
    if kinds is None:
        return {}
    total, said = fields.get("num_hidden_layers"), fields.get("first_k_dense_replace")
    dense = kinds.count("dense") if isinstance(kinds, list) else -1
    if type(total) is not int or kinds != ["dense"] * dense + ["sparse"] * (total - dense):
        raise CheckpointError(
            f"config.json: mlp_layer_types must be 'dense' and then 'sparse', one for each of "
            f"{shown(total)} layers, got {shown(kinds)}; this model has no other order"
        )
    if said not in (None, dense):
        raise CheckpointError(
            f"config.json: first_k_dense_replace is {shown(said)}, but mlp_layer_types has {dense} "
            "dense layers; leave the right one"
        )
    return {"first_k_dense_replace": dense}


GLM_LITE = DEEPSEEK._replace(
    name="Glm4MoeLiteForCausalLM", model_types=("glm4_moe_lite",), defaults=_dense_layers
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


LLAMA = Architecture(
    name="LlamaForCausalLM",
    model_types=("llama",),
    names=_DENSE,
    fixed={"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"},
    rope_kinds=("yarn", "llama3"),
    implied=lambda values: _dense(values, qk_norm=False),
    defaults=_llama_defaults,
)
QWEN3 = Architecture(
    name="Qwen3ForCausalLM",
    model_types=("qwen3",),
    names=_DENSE,
    fixed={"attention_bias": False, "hidden_act": "silu", "use_sliding_window": False},
    rope_kinds=("yarn", "llama3"),
    implied=lambda values: _dense(values, qk_norm=True),
)
ALL = (DEEPSEEK, GLM_LITE, LLAMA, QWEN3)
