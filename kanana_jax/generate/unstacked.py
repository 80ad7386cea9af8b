"""A model as decoding reads it: each layer's weights separately, in its attention's decoding form.

Decoding also takes training's own weights, whose stacks it slices inside its compiled functions:
handing them over copies nothing, and the sliced copy exists only while a function runs.

Letters: D hidden, V vocabulary, E experts, G numbers of a gain: D or 1.
"""

import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kanana_jax import config, model
from kanana_jax.model import decoding, layers, lora, xla_hints


class Layer(NamedTuple):
    block: dict[str, Any]  # as `decoding.prepare` returns it
    bias_E: Float[Array, "E"]  # empty in a dense layer


class UnstackedWeights(NamedTuple):
    embed_VD: Float[Array, "V D"]
    final_norm: Float[Array, "G"] | None  # None: the model's norms have no gain
    head_DV: Float[Array, "D V"] | None  # None: the embedding's
    layers: tuple[Layer, ...]
    # Parameters of encoders, as in training, by the names of `model.encoders`.
    encoders: Mapping[str, Any] = types.MappingProxyType({})


AnyWeights = UnstackedWeights | model.Weights


def ready(
    cfg: config.ModelConfig, execution: config.ExecutionConfig, weights: AnyWeights
) -> UnstackedWeights:
    """Unstacked weights as they are; training's unstacked, in the dtype that the model computes in.

    For use inside a jitted function.
    """
    if isinstance(weights, UnstackedWeights):
        return weights
    made = from_stacks(cfg, weights, layers.compute_dtype(execution))
    # Otherwise XLA may skip the rounding to bfloat16 where products convert back to float32.
    return jax.lax.optimization_barrier(made)


def from_stacks(
    cfg: config.ModelConfig, weights: model.Weights, dtype: jnp.dtype | None = None
) -> UnstackedWeights:
    """The weights of training, layer by layer; the stacks are copied.

    With a `dtype` they are cast to what `kept_dtype` says, except an embedding that is only looked
    up: a few of its rows are cast at a time.
    """
    specs = model.describe(cfg)

    def cast(x: Array, spec: model.ParamSpec) -> Array:
        return x if dtype is None else x.astype(kept_dtype(spec, dtype))

    def layers_of(stack: str) -> list[dict[str, Any]]:
        stacked = weights.params[stack], (weights.adapters or {}).get(stack)
        leaves, structure = jax.tree.flatten(stacked)
        by_layer = zip(*map(xla_hints.unstack_layers, leaves), strict=True)
        described = decoding.describe_layer(cfg, is_moe=stack == "moe_layers")
        made = []
        for one in by_layer:
            plain, adapters = jax.tree.unflatten(structure, one)
            layer = lora.applied(plain, adapters, jnp.float32 if dtype is None else dtype)
            made.append(jax.tree.map(cast, decoding.prepare(cfg, layer), described))
        return made

    dense = layers_of("dense_layers") if cfg.num_dense_layers else []
    moe = layers_of("moe_layers") if cfg.num_moe_layers else []
    no_bias = [jnp.zeros(0)] * len(dense)
    params, bias_LE = weights.params, weights.buffers["router_bias"]
    embed_VD = params["embed"]
    return UnstackedWeights(
        cast(embed_VD, specs["embed"]) if cfg.tie_embeddings else embed_VD,
        params.get("final_norm"),
        None if cfg.tie_embeddings else cast(params["head"], specs["head"]),
        tuple(map(Layer, [*dense, *moe], [*no_bias, *bias_LE])),
        {name: params[name] for name in model.encoders.shapes(cfg)},
    )


def kept_dtype(spec: model.ParamSpec, dtype: jnp.dtype) -> jnp.dtype:
    """Float32 for norms and routers, which compute in it; `dtype` for all else."""
    return jnp.dtype(jnp.float32) if spec.role in ("norm", "router") else dtype


def locate(cfg: config.ModelConfig, index: int) -> tuple[str, int]:
    """The stack of training's parameters that has layer `index`, and the layer's place in it."""
    if index < cfg.num_dense_layers:
        return "dense_layers", index
    return "moe_layers", index - cfg.num_dense_layers
