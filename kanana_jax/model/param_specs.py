"""What one parameter is, as plain data, and the usual kinds of parameters in a stack of layers."""

import dataclasses
from typing import Any, Literal

from kanana_jax.config import ModelConfig
from kanana_jax.optim.specs import MatrixSpec, QKClipSpec

Role = Literal["embedding", "head", "scalar_head", "norm", "router", "matrix"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParamSpec:
    """One leaf. `matrix` is None for leaves of no matrix product: embedding, heads and norms."""

    role: Role
    logical_axes: tuple[str, ...]  # one name per axis, looked up in the sharding table
    matrix: MatrixSpec | None = None
    qk_clip: QKClipSpec | None = None


def norm(*, qk_clip: QKClipSpec | None = None) -> ParamSpec:
    return ParamSpec(role="norm", logical_axes=("layers", "norm"), qk_clip=qk_clip)


def norms(cfg: ModelConfig, *names: str) -> dict[str, ParamSpec]:
    """Specs of these norms, where the model's norms have a gain."""
    return {} if cfg.norm_gain == "none" else {name: norm() for name in names}


def matrix(*axes: str, qk_clip: QKClipSpec | None = None, **layout: Any) -> ParamSpec:
    """`layout` are the fields of its MatrixSpec."""
    return ParamSpec(
        role="matrix",
        logical_axes=("layers", *axes),
        matrix=MatrixSpec(**layout),
        qk_clip=qk_clip,
    )


def of_heads(split: str) -> dict[str, Any]:
    """Layout of a projection (L, inputs, H, K): heads are matrices of their own, or form one."""
    if split == "heads":
        return {"rows": (1,), "cols": (3,), "batch": (0, 2)}
    return {"rows": (1,), "cols": (2, 3), "batch": (0,)}


def output(*axes: str) -> ParamSpec:
    """The projection (L, H, U, D) of the output of all heads."""
    return matrix(*axes, rows=(1, 2), cols=(3,), batch=(0,))
