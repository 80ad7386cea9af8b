"""What the parameters of image and sound encoders are; see `describe.describe`."""

from typing import Any

from kanana_jax.model import param_specs
from kanana_jax.model.param_specs import ParamSpec
from kanana_jax.optim.specs import MatrixSpec, QKClipSpec


def norm(*lead: str) -> dict[str, ParamSpec]:
    return {"gamma": vector(*lead, "norm"), "beta": vector(*lead, "norm")}


def linear(rows: str, cols: str, *lead: str) -> dict[str, ParamSpec]:
    """One matrix, or one in each layer of a stack."""
    first = len(lead)
    layout = MatrixSpec(rows=(first,), cols=(first + 1,), batch=tuple(range(first)))
    matrix = ParamSpec(role="matrix", logical_axes=(*lead, rows, cols), matrix=layout)
    return {"w": matrix, "b": vector(*lead, "whole")}


def vector(*axes: str, qk_clip: QKClipSpec | None = None) -> ParamSpec:
    """A parameter outside matrix products: gains, biases, weights of single channels."""
    return ParamSpec(role="norm", logical_axes=axes, qk_clip=qk_clip)


def attention(head_dim: int, first_layer: int, split: str) -> dict[str, ParamSpec]:
    """Queries with a bias and keys without. Maxima of the first of its layers have the number
    `first_layer` among those of all layers."""

    def half(head_axis: int) -> QKClipSpec:
        return QKClipSpec(
            layer_axis=0,
            head_axis=head_axis,
            segments=((head_dim, 0.5),),
            first_layer=first_layer,
        )

    heads, projection = param_specs.of_heads(split), ("embed", "heads", "head_dim")
    return {
        "wq": param_specs.matrix(*projection, qk_clip=half(2), **heads),
        "wk": param_specs.matrix(*projection, qk_clip=half(2), **heads),
        "wv": param_specs.matrix(*projection, **heads),
        "wo": param_specs.output("heads", "head_dim", "embed"),
        "bq": vector("layers", "heads", "head_dim", qk_clip=half(1)),
        "bv": vector("layers", "heads", "head_dim"),
        "bo": vector("layers", "norm"),
    }


def convolutions(*taps: str) -> dict[str, Any]:
    """Blocks of an abstractor before the merge."""
    return {
        "norm": norm("layers"),
        "first": linear("embed", "whole", "layers"),
        "around": vector("layers", *taps, "whole"),
        "last": linear("whole", "embed", "layers"),
    }


def merge() -> dict[str, Any]:
    """The MLP that makes positions of the decoder."""
    return {"inner": linear("embed", "mlp"), "outer": linear("mlp", "embed")}
