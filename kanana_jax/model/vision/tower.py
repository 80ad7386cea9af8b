"""The encoder of images with its projector, and where its positions go in a decoder's sequence.

    patches -> W + position -> blocks -> norm -> projector -> the decoder's embeddings

Letters: B rows of a batch, S positions, P patches, C numbers of a patch, M slots, D width of the
encoder, W width of the decoder, L layers, H heads.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from kanana_jax.batch import Images
from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import layers, param_specs
from kanana_jax.model.biased import LayerNorm, Linear
from kanana_jax.model.param_specs import ParamSpec
from kanana_jax.model.vision import positions
from kanana_jax.model.vision.layers import Block
from kanana_jax.model.vision.projector import Abstractor, Merge
from kanana_jax.optim.specs import MatrixSpec, QKClipSpec
from kanana_jax.parallel import local


class Tower(nnx.Module):
    """Encoder and projector. Float32 parameters; activations in `execution.compute_dtype`."""

    def __init__(self, cfg: ModelConfig, execution: ExecutionConfig, *, rngs: nnx.Rngs):
        shape = cfg.vision
        assert shape is not None
        self.cfg, self.execution = cfg, execution
        self.patch = Linear(cfg, shape.patch_values, shape.hidden_size, rngs=rngs)
        grid = (shape.position_grid, shape.position_grid)
        self.positions = layers.normal(rngs, cfg, *grid, shape.hidden_size)
        self.layers = jax.vmap(lambda key: Block(cfg, shape, execution, rngs=nnx.Rngs(key)))(
            jax.random.split(rngs.params(), shape.num_layers)
        )
        self.final_norm = LayerNorm(shape.hidden_size, shape.layer_norm_eps)
        is_mlp = shape.projector == "mlp"
        self.projector = (Merge if is_mlp else Abstractor)(cfg, shape, rngs=rngs)

    def __call__(self, images: Images) -> tuple[Float[Array, "B M W"], Float[Array, "L H"]]:
        """What stands at each slot, and the largest logit of each head of the encoder."""
        shape, dtype = self.cfg.vision, layers.compute_dtype(self.execution)
        assert shape is not None
        pixels_BPC, places_BP4, image_ids_BP = (
            local.constrain(jnp.asarray(x), ("batch", "whole", "whole")[: jnp.ndim(x)])
            for x in images[:3]
        )
        x_BPD = self.patch((pixels_BPC.astype(jnp.float32) / 127.5 - 1.0).astype(dtype))
        x_BPD = x_BPD + positions.learned(self.positions[...], places_BP4).astype(dtype)
        by = positions.rotation(places_BP4, shape.head_dim)

        def body(x_BPD, block):
            return block(x_BPD, by, image_ids_BP)

        if self.execution.remat != "none":
            body = jax.checkpoint(body, prevent_cse=False)
        x_BPD, max_logits_LH = jax.lax.scan(body, x_BPD, self.layers)
        x_BPD = self.final_norm(x_BPD)
        if isinstance(self.projector, Merge):
            return self.projector(x_BPD), max_logits_LH
        return self.projector(x_BPD, places_BP4), max_logits_LH


def encode(
    cfg: ModelConfig, execution: ExecutionConfig, params: Any, images: Images
) -> Float[Array, "B M W"]:
    """What stands at each slot, by the parameters of a model's encoder."""
    graph, abstract = _skeleton(cfg, execution)
    state = jax.tree.unflatten(jax.tree.structure(abstract), jax.tree.leaves(params))
    return nnx.merge(graph, state)(images)[0]


@functools.lru_cache(maxsize=64)
def _skeleton(cfg: ModelConfig, execution: ExecutionConfig):
    return nnx.split(jax.eval_shape(lambda: Tower(cfg, execution, rngs=nnx.Rngs(0))))


def insert(
    x_BSD: Float[Array, "B S W"], slots_BMD: Float[Array, "B M W"], slots_BS: Int[Array, "B S"]
) -> Float[Array, "B S W"]:
    """The embeddings with those of slots where one stands."""
    index_BS = jnp.maximum(slots_BS, 0)
    there_BSD = jnp.take_along_axis(slots_BMD, index_BS[..., None], axis=1)
    return jnp.where((slots_BS >= 0)[..., None], there_BSD.astype(x_BSD.dtype), x_BSD)


def specs(cfg: ModelConfig, split: str) -> dict[str, Any]:
    """See `describe.describe`. The encoder's heads are clipped as a decoder's layers behind its
    last one."""
    shape = cfg.vision
    assert shape is not None
    half = QKClipSpec(
        layer_axis=0,
        head_axis=2,
        segments=((shape.head_dim, 0.5),),
        first_layer=cfg.num_layers,
    )
    of_bias = QKClipSpec(
        layer_axis=0,
        head_axis=1,
        segments=((shape.head_dim, 0.5),),
        first_layer=cfg.num_layers,
    )
    heads = param_specs.of_heads(split)
    projection = ("embed", "heads", "head_dim")
    attention = {
        "wq": param_specs.matrix(*projection, qk_clip=half, **heads),
        "wk": param_specs.matrix(*projection, qk_clip=half, **heads),
        "wv": param_specs.matrix(*projection, **heads),
        "wo": param_specs.output("heads", "head_dim", "embed"),
        "bq": _vector("layers", "heads", "head_dim", qk_clip=of_bias),
        "bk": _vector("layers", "heads", "head_dim", qk_clip=of_bias),
        "bv": _vector("layers", "heads", "head_dim"),
        "bo": _vector("layers", "norm"),
    }
    block = {
        "attention_norm": _norm("layers"),
        "attention": attention,
        "mlp_norm": _norm("layers"),
        "mlp": {
            "up": _linear("embed", "mlp", "layers"),
            "down": _linear("mlp", "embed", "layers"),
        },
    }
    return {
        "patch": _linear("whole", "embed"),
        "positions": ParamSpec(role="embedding", logical_axes=("whole", "whole", "embed")),
        "layers": block,
        "final_norm": _norm(),
        "projector": _projector(shape.projector),
    }


def _projector(kind: str) -> dict[str, Any]:
    merge = {
        "norm": _norm(),
        "inner": _linear("embed", "mlp"),
        "outer": _linear("mlp", "embed"),
    }
    if kind == "mlp":
        return merge
    return {
        "positions": ParamSpec(role="embedding", logical_axes=("whole", "whole", "embed")),
        "layers": {
            "norm": _norm("layers"),
            "first": _linear("embed", "whole", "layers"),
            "around": _vector("layers", "whole", "whole"),
            "last": _linear("whole", "embed", "layers"),
        },
        "merge": merge,
    }


def _norm(*lead: str) -> dict[str, ParamSpec]:
    return {"gamma": _vector(*lead, "norm"), "beta": _vector(*lead, "norm")}


def _linear(rows: str, cols: str, *lead: str) -> dict[str, ParamSpec]:
    """A matrix of its own; of a stack in each layer."""
    first = len(lead)
    layout = MatrixSpec(rows=(first,), cols=(first + 1,), batch=tuple(range(first)))
    matrix = ParamSpec(role="matrix", logical_axes=(*lead, rows, cols), matrix=layout)
    return {"w": matrix, "b": _vector(*lead, "whole")}


def _vector(*axes: str, qk_clip: QKClipSpec | None = None) -> ParamSpec:
    """What no matrix product has: gains, biases, weights of single channels."""
    return ParamSpec(role="norm", logical_axes=axes, qk_clip=qk_clip)
