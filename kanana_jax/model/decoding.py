"""Blocks that decode: training's layers around an attention over a cache.

Every layer has arrays of its own: kernels would receive copies of slices of a stack, which for
experts is most of the model.
"""

import dataclasses
import functools
from typing import Any

import jax
from flax import nnx

from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import attention
from kanana_jax.model.block import Block
from kanana_jax.model.describe import describe
from kanana_jax.model.param_specs import ParamSpec

Params = dict[str, Any]


def prepare(cfg: ModelConfig, params: Params) -> Params:
    """Parameters of a decoding block from those of one layer, arrays of numpy or jax."""
    return params | {"attention": attention.of(cfg).prepare(cfg, params["attention"])}


def describe_layer(cfg: ModelConfig, *, is_moe: bool) -> Params:
    """A ParamSpec for each parameter of a decoding block: its role and axes, no matrices."""
    stack = describe(cfg)["moe_layers" if is_moe else "dense_layers"]
    layer = jax.tree.map(
        lambda spec: ParamSpec(role=spec.role, logical_axes=spec.logical_axes[1:]),
        stack,
        is_leaf=lambda x: isinstance(x, ParamSpec),
    )
    return layer | {"attention": attention.of(cfg).prepare_specs(layer["attention"])}


def bind(cfg: ModelConfig, execution: ExecutionConfig, params: Params, *, is_moe: bool) -> Block:
    """The block that holds `params`, arrays or tracers; its attention is over a cache."""
    graph, abstract = _skeleton(cfg, execution, is_moe)
    expected, got = jax.tree.structure(nnx.to_pure_dict(abstract)), jax.tree.structure(params)
    if expected != got:
        raise ValueError(
            f"a layer must have the structure of prepare(cfg, params), {expected}; got {got}"
        )
    state = jax.tree.unflatten(jax.tree.structure(abstract), jax.tree.leaves(params))
    return nnx.merge(graph, state)


@functools.lru_cache(maxsize=64)
def _skeleton(cfg: ModelConfig, execution: ExecutionConfig, is_moe: bool):
    # Few tokens are read at a time: quantising every matrix for them would cost more than it saves.
    execution = dataclasses.replace(execution, precision="full")

    def make():
        rngs = nnx.Rngs(0)
        over_cache = attention.of(cfg).over_cache(cfg, execution, rngs=rngs)
        return Block(cfg, execution, over_cache, is_moe=is_moe, rngs=rngs)

    return nnx.split(jax.eval_shape(make))


def shapes(cfg: ModelConfig, *, is_moe: bool) -> Params:
    """Shapes of a decoding block's parameters, float32."""
    return nnx.to_pure_dict(_skeleton(cfg, ExecutionConfig(), is_moe)[1])
