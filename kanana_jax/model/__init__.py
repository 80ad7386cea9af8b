"""DeepSeek-V3-family decoders in Flax NNX, used through functions over plain dicts of arrays."""

from kanana_jax.batch import Inputs
from kanana_jax.model import absorbed, presets
from kanana_jax.model.balance import (
    Routing,
    init_router_bias,
    max_vio,
    quantile_router_bias,
    update_router_bias,
)
from kanana_jax.model.describe import ParamSpec, describe
from kanana_jax.model.transformer import (
    Aux,
    Params,
    Transformer,
    Weights,
    apply,
    bind,
    hidden_states,
    init,
    init_buffers,
    init_params,
    logits,
    num_params,
    scalars,
)

__all__ = [
    "Aux",
    "Inputs",
    "ParamSpec",
    "Params",
    "Routing",
    "Transformer",
    "Weights",
    "absorbed",
    "apply",
    "bind",
    "describe",
    "hidden_states",
    "init",
    "init_buffers",
    "init_params",
    "init_router_bias",
    "logits",
    "max_vio",
    "num_params",
    "presets",
    "quantile_router_bias",
    "scalars",
    "update_router_bias",
]
