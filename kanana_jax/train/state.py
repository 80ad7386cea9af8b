"""The train state, made sharded from the start."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax import config, model, parallel
from kanana_jax.train import trained

_OFF = config.LoraConfig()


class TrainState(NamedTuple):
    """All arrays that a checkpoint holds."""

    step: Any  # int32, updates done so far
    weights: model.Weights
    opt_state: optax.OptState


def wrap(optimizer: optax.GradientTransformation, weights: model.Weights) -> TrainState:
    """The state before the first update."""
    return TrainState(jnp.zeros((), jnp.int32), weights, optimizer.init(weights.params))


def weight_shardings(
    cfg: config.ModelConfig, mesh: Any, lora: config.LoraConfig = _OFF
) -> model.Weights:
    """Where every array of what is trained lives; buffers are on every device."""
    shapes = trained.shapes(cfg, lora)
    logical_axes = jax.tree.map(
        lambda spec: spec.logical_axes,
        trained.describe(cfg, lora),
        is_leaf=lambda x: isinstance(x, model.ParamSpec),
    )
    replicated = jax.tree.map(lambda _: NamedSharding(mesh, P()), shapes.buffers)
    return model.Weights(parallel.param_shardings(mesh, shapes.params, logical_axes), replicated)


def abstract(
    cfg: config.ModelConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    lora: config.LoraConfig = _OFF,
) -> TrainState:
    """Shape, dtype and sharding of every array of the state on `mesh`."""
    of_weights = weight_shardings(cfg, mesh, lora)
    shapes = jax.eval_shape(lambda weights: wrap(optimizer, weights), trained.shapes(cfg, lora))
    params = shapes.weights.params

    shardings = TrainState(
        step=NamedSharding(mesh, P()),
        weights=of_weights,
        opt_state=parallel.state_shardings(mesh, shapes.opt_state, params, of_weights.params),
    )
    return jax.tree.map(_placed, shapes, shardings)


def abstract_weights(
    cfg: config.ModelConfig, mesh: Any, lora: config.LoraConfig = _OFF
) -> model.Weights:
    """Shape, dtype and sharding of every array of whole weights on `mesh`."""

    def one(x: Any, dtype: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, dtype, sharding=sharding)

    dtypes = trained.kept_dtypes(cfg, lora)
    return jax.tree.map(one, weight_shapes(cfg), dtypes, weight_shardings(cfg, mesh))


def _placed(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def weight_shapes(cfg: config.ModelConfig) -> Any:
    """Shapes of whole weights."""
    return trained.shapes(cfg)
