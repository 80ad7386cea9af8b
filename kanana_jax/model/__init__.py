"""Decoders with latent or grouped-query attention, used through functions over plain dicts."""

from kanana_jax.batch import Features, Images, Inputs, Sounds
from kanana_jax.model import attention, decoding, encoders, expert_matrices, lora, presets
from kanana_jax.model.balance import (
    Routing,
    init_router_bias,
    max_vio,
    quantile_router_bias,
    update_router_bias,
)
from kanana_jax.model.describe import describe
from kanana_jax.model.param_specs import ParamSpec
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
    "Features",
    "Images",
    "Inputs",
    "ParamSpec",
    "Params",
    "Routing",
    "Sounds",
    "Transformer",
    "Weights",
    "apply",
    "attention",
    "bind",
    "decoding",
    "describe",
    "encoders",
    "expert_matrices",
    "hidden_states",
    "init",
    "init_buffers",
    "init_params",
    "init_router_bias",
    "logits",
    "lora",
    "max_vio",
    "num_params",
    "presets",
    "quantile_router_bias",
    "scalars",
    "update_router_bias",
]
