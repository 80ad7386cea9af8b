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

    step: jax.Array  # updates done so far
    params: Any
    opt_state: optax.OptState
    router_bias: jax.Array  # (MoE layers, experts), float32


def init(
    cfg: config.ModelConfig, optimizer: optax.GradientTransformation, seed: jax.Array | int
) -> TrainState:
    params = model.init(cfg, jax.random.key(seed))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        router_bias=model.init_router_bias(cfg),
    )


def shardings(
    cfg: config.ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Where every array of the state lives on `mesh`."""
    shapes = jax.eval_shape(lambda: init(cfg, optimizer, 0))
    logical_axes = jax.tree.map(
        lambda spec: spec.logical_axes,
        model.describe(cfg),
        is_leaf=lambda x: isinstance(x, model.ParamSpec),
    )
    of_params = parallel.param_shardings(mesh, shapes.params, logical_axes)
    replicated = NamedSharding(mesh, P())
    return TrainState(
        step=replicated,
        params=of_params,
        opt_state=parallel.state_shardings(mesh, shapes.opt_state, shapes.params, of_params),
        router_bias=replicated,
    )
