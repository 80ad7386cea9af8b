"""What each parameter is, as plain data: the optimizer, QK-Clip and the sharding table read this.

The model describes, others consume; nobody has to guess from a parameter's name.

Letters as in the parameter shapes: L layers of a stack, D hidden, H heads, N and R the no-position
and rotary part of a query or key head, U a value head, C and Q the latent ranks, E experts.
"""

import dataclasses
from typing import Any, Literal

from kanana_jax.config import ModelConfig
from kanana_jax.optim.specs import MatrixSpec, QKClipSpec

Role = Literal["embedding", "head", "scalar_head", "norm", "router", "matrix"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParamSpec:
    """One leaf. `matrix` is None for what is no matrix product: embedding, heads and norms."""

    role: Role
    logical_axes: tuple[str, ...]  # one name per axis, looked up in the sharding table
    matrix: MatrixSpec | None = None
    qk_clip: QKClipSpec | None = None


def describe(cfg: ModelConfig, split: str = "parts") -> dict[str, Any]:
    """A tree of ParamSpec with the structure of the parameters.

    `split` says what counts as one matrix in attention: "none" takes each projection whole; "parts"
    parts the K and V columns of wkv_b; "heads" also takes every head of wq (or wq_b) and wkv_b by
    itself. Gate and up are two matrices in every case.
    """
    if split not in ("none", "parts", "heads"):
        raise ValueError(f"split must be 'none', 'parts' or 'heads', got {split!r}.")
    specs: dict[str, Any] = {
        "embed": ParamSpec(role="embedding", logical_axes=("vocab", "embed")),
        "final_norm": ParamSpec(role="norm", logical_axes=("norm",)),
    }
    if not cfg.tie_embeddings:
        specs["head"] = ParamSpec(role="head", logical_axes=("embed", "vocab"))
    if cfg.scalar_head:
        specs["scalar_head"] = ParamSpec(role="scalar_head", logical_axes=("whole",))
    if cfg.num_dense_layers:
        specs["dense_layers"] = _block(cfg, split, _mlp(), first_layer=0)
    if cfg.num_moe_layers:
        specs["moe_layers"] = _block(cfg, split, _moe(cfg), first_layer=cfg.num_dense_layers)
    return specs


def _block(cfg: ModelConfig, split: str, mlp: dict[str, Any], first_layer: int) -> dict[str, Any]:
    return {
        "attention_norm": _norm(),
        "attention": _attention(cfg, split, first_layer),
        "mlp_norm": _norm(),
        "mlp": mlp,
    }


def _norm() -> ParamSpec:
    return ParamSpec(role="norm", logical_axes=("layers", "norm"))


def _matrix(*axes: str, qk_clip: QKClipSpec | None = None, **matrix: Any) -> ParamSpec:
    return ParamSpec(
        role="matrix",
        logical_axes=("layers", *axes),
        matrix=MatrixSpec(**matrix),
        qk_clip=qk_clip,
    )


def _attention(cfg: ModelConfig, split: str, first_layer: int) -> dict[str, Any]:
    nope, rope, value = cfg.qk_nope_head_dim, cfg.qk_rope_head_dim, cfg.v_head_dim
    by_head: dict[str, Any] = {"rows": (1,), "cols": (3,), "batch": (0, 2)}
    together: dict[str, Any] = {"rows": (1,), "cols": (2, 3), "batch": (0,)}
    heads = by_head if split == "heads" else together
    fused: dict[str, Any] = {"split_axis": 3, "split_sizes": (nope, value)}
    parts = {} if split == "none" else fused
    plain: dict[str, Any] = {"rows": (1,), "cols": (2,), "batch": (0,)}

    def clip(*segments: tuple[int, float]) -> QKClipSpec:
        return QKClipSpec(layer_axis=0, head_axis=2, segments=segments, first_layer=first_layer)

    # The rope key is shared by all heads, so the query's rope part takes all of gamma.
    query_clip, kv_clip = clip((nope, 0.5), (rope, 1.0)), clip((nope, 0.5), (value, 0.0))
    specs = {
        "wkv_a": _matrix("embed", "latent", **plain),
        "kv_norm": _norm(),
        "wkv_b": _matrix("kv_lora", "heads", "head_dim", qk_clip=kv_clip, **heads, **parts),
        "wo": _matrix("heads", "head_dim", "embed", rows=(1, 2), cols=(3,), batch=(0,)),
    }
    if cfg.q_lora_rank is None:
        query = {"wq": _matrix("embed", "heads", "head_dim", qk_clip=query_clip, **heads)}
    else:
        query = {
            "wq_a": _matrix("embed", "latent", **plain),
            "q_norm": _norm(),
            "wq_b": _matrix("q_lora", "heads", "head_dim", qk_clip=query_clip, **heads),
        }
    return query | specs


def _mlp() -> dict[str, Any]:
    return {
        "w_gate_up": _matrix("gate_up", "mlp", "embed", rows=(3,), cols=(2,), batch=(0, 1)),
        "w_down": _matrix("mlp", "embed", rows=(1,), cols=(2,), batch=(0,)),
    }


def _moe(cfg: ModelConfig) -> dict[str, Any]:
    router = ParamSpec(
        role="router",
        logical_axes=("layers", "embed", "scores"),
        matrix=MatrixSpec(rows=(1,), cols=(2,), batch=(0,)),
    )
    specs: dict[str, Any] = {
        "router": router,
        "w_gate_up": _matrix(
            "experts", "gate_up", "mlp", "expert_embed", rows=(4,), cols=(3,), batch=(0, 1, 2)
        ),
        "w_down": _matrix("experts", "mlp", "expert_embed", rows=(2,), cols=(3,), batch=(0, 1)),
    }
    return specs | ({"shared": _mlp()} if cfg.num_shared_experts else {})
