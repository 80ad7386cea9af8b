"""The encoder of images with its projector.

    patches -> W + position -> blocks -> norm -> projector -> the decoder's embeddings

Letters: B rows of a batch, S positions, P patches, C numbers of a patch, M slots, D width of the
encoder, W width of the decoder, L layers, H heads.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kanana_jax.batch import Images
from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import encoder_specs, layers
from kanana_jax.model.biased import LayerNorm, Linear
from kanana_jax.model.param_specs import ParamSpec
from kanana_jax.model.vision import positions
from kanana_jax.model.vision.layers import Block
from kanana_jax.model.vision.projector import Abstractor, Merge
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

    def slots(self, images: Images) -> tuple[Float[Array, "B M W"], Float[Array, "L H"]]:
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


def specs(cfg: ModelConfig, split: str) -> dict[str, Any]:
    """See `describe.describe`. The encoder's heads are clipped as if its layers followed the
    decoder's last one."""
    shape = cfg.vision
    assert shape is not None
    attention = encoder_specs.attention(shape.head_dim, cfg.num_layers, split)
    block = {
        "attention_norm": encoder_specs.norm("layers"),
        "attention": attention | {"bk": attention["bq"]},
        "mlp_norm": encoder_specs.norm("layers"),
        "mlp": {
            "up": encoder_specs.linear("embed", "mlp", "layers"),
            "down": encoder_specs.linear("mlp", "embed", "layers"),
        },
    }
    return {
        "patch": encoder_specs.linear("whole", "embed"),
        "positions": ParamSpec(role="embedding", logical_axes=("whole", "whole", "embed")),
        "layers": block,
        "final_norm": encoder_specs.norm(),
        "projector": _projector(shape.projector),
    }


def _projector(kind: str) -> dict[str, Any]:
    merge = {"norm": encoder_specs.norm(), **encoder_specs.merge()}
    if kind == "mlp":
        return merge
    return {
        "positions": ParamSpec(role="embedding", logical_axes=("whole", "whole", "embed")),
        "layers": encoder_specs.convolutions("whole"),
        "merge": merge,
    }
