"""What each parameter is, as plain data: the optimizer, QK-Clip and the sharding table read this.

The model describes, others consume; nobody has to guess from a parameter's name.

Attention's parameters are described beside it, in `mla` and `gqa`.
"""

from typing import Any

from kanana_jax.config import ModelConfig
from kanana_jax.model import attention, encoders, param_specs
from kanana_jax.model.param_specs import ParamSpec
from kanana_jax.optim.specs import MatrixSpec


def describe(cfg: ModelConfig, split: str = "parts") -> dict[str, Any]:
    """A tree of ParamSpec with the structure of the parameters.

    `split` says what counts as one matrix in attention: "none" takes each projection whole; "parts"
    splits the K and V columns of wkv_b; "heads" also takes every head of wq (or wq_b), wk, wv and
    wkv_b by itself. Gate and up are two matrices in every case.
    """
    if split not in ("none", "parts", "heads"):
        raise ValueError(f"split must be 'none', 'parts' or 'heads', got {split!r}.")
    specs: dict[str, Any] = {
        "embed": ParamSpec(role="embedding", logical_axes=("vocab", "embed")),
    }
    if cfg.norm_gain != "none":
        specs["final_norm"] = ParamSpec(role="norm", logical_axes=("norm",))
    if not cfg.tie_embeddings:
        specs["head"] = ParamSpec(role="head", logical_axes=("embed", "vocab"))
    if cfg.scalar_head:
        specs["scalar_head"] = ParamSpec(role="scalar_head", logical_axes=("whole",))
    if cfg.num_dense_layers:
        specs["dense_layers"] = _block(cfg, split, _mlp(), first_layer=0)
    if cfg.num_moe_layers:
        specs["moe_layers"] = _block(cfg, split, _moe(cfg), first_layer=cfg.num_dense_layers)
    return specs | encoders.specs(cfg, split)


def _block(cfg: ModelConfig, split: str, mlp: dict[str, Any], first_layer: int) -> dict[str, Any]:
    return {
        "attention": attention.of(cfg).specs(cfg, split, first_layer),
        "mlp": mlp,
        **param_specs.norms(cfg, "attention_norm", "mlp_norm"),
    }


def _mlp() -> dict[str, Any]:
    return {
        "w_gate_up": param_specs.matrix(
            "gate_up", "mlp", "embed", rows=(3,), cols=(2,), batch=(0, 1)
        ),
        "w_down": param_specs.matrix("mlp", "embed", rows=(1,), cols=(2,), batch=(0,)),
    }


def _moe(cfg: ModelConfig) -> dict[str, Any]:
    router = ParamSpec(
        role="router",
        logical_axes=("layers", "embed", "scores"),
        matrix=MatrixSpec(rows=(1,), cols=(2,), batch=(0,)),
    )
    specs: dict[str, Any] = {
        "router": router,
        "w_gate_up": param_specs.matrix(
            "experts", "gate_up", "mlp", "expert_embed", rows=(4,), cols=(3,), batch=(0, 1, 2)
        ),
        "w_down": param_specs.matrix(
            "experts", "mlp", "expert_embed", rows=(2,), cols=(3,), batch=(0, 1)
        ),
    }
    return specs | ({"shared": _mlp()} if cfg.num_shared_experts else {})
