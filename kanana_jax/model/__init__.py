"""DeepSeek-V3-family decoders in Flax NNX, used through functions over plain dicts of arrays."""

from kanana_jax.model import absorbed, presets
from kanana_jax.model.describe import ParamSpec, describe
from kanana_jax.model.moe import init_router_bias, max_vio, update_router_bias
from kanana_jax.model.transformer import (
    Aux,
    Params,
    Transformer,
    apply,
    bind,
    hidden_states,
    init,
    logits,
    num_params,
)

__all__ = [
    "Aux",
    "ParamSpec",
    "Params",
    "Transformer",
    "absorbed",
    "apply",
    "bind",
    "describe",
    "hidden_states",
    "init",
    "init_router_bias",
    "logits",
    "max_vio",
    "num_params",
    "presets",
    "update_router_bias",
]
