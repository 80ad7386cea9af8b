"""The train state, made sharded from the start."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax import config, model, parallel


class TrainState(NamedTuple):
    """All that a checkpoint holds; batches need nothing more than `step`."""

    step: Any  # int32, updates done so far
    params: Any
    opt_state: optax.OptState
    router_bias: Any  # (MoE layers, experts), float32


def wrap(
    cfg: config.ModelConfig, optimizer: optax.GradientTransformation, params: Any
) -> TrainState:
    """The state before the first update."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        router_bias=model.init_router_bias(cfg),
    )


def param_shardings(cfg: config.ModelConfig, mesh: Mesh) -> Any:
    logical_axes = jax.tree.map(
        lambda spec: spec.logical_axes,
        model.describe(cfg),
        is_leaf=lambda x: isinstance(x, model.ParamSpec),
    )
    return parallel.param_shardings(mesh, param_shapes(cfg), logical_axes)


def abstract(
    cfg: config.ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shape, dtype and sharding of every array of the state on `mesh`."""
    of_params = param_shardings(cfg, mesh)
    shapes = jax.eval_shape(lambda params: wrap(cfg, optimizer, params), param_shapes(cfg))
    replicated = NamedSharding(mesh, P())
    of_opt_state = parallel.state_shardings(mesh, shapes.opt_state, shapes.params, of_params)

    def place(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return TrainState(
        step=place(shapes.step, replicated),
        params=jax.tree.map(place, shapes.params, of_params),
        opt_state=jax.tree.map(place, shapes.opt_state, of_opt_state),
        router_bias=place(shapes.router_bias, replicated),
    )


def param_shapes(cfg: config.ModelConfig) -> Any:
    return jax.eval_shape(lambda: model.init(cfg, jax.random.key(0)))
