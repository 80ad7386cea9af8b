"""The train step of several runs at once, as one program.

    states, records = vmap(step)(states, batches, rates)

A small model leaves most of a device idle; runs that differ only in rate and seed fill it. States
come and go one by one, and their holder need not know that they are stacked inside.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax.batch import Batch
from kanana_jax.train import state, step_functions
from kanana_jax.train import step as step_lib
from kanana_jax.train.step_config import StepConfig

Taken = tuple[state.TrainState, step_lib.Metrics]
Step = Callable[[Sequence[state.TrainState], Sequence[Batch], Sequence[float]], Sequence[Taken]]


@functools.lru_cache(maxsize=8)
def build(cfg: StepConfig, mesh: Any, size: int) -> Step:
    """The step of `size` runs, compiled at the first call. No state is donated.

    For objectives that read no frozen weights. Numbers are those of single steps, to rounding.
    """
    placed = jax.tree.map(
        lambda x: x.sharding, state.abstract(cfg.model, cfg.make_optimizer(1.0), mesh, cfg.lora)
    )
    whole = NamedSharding(mesh, P())

    def take(states, batches, rates):
        def one(before, batch, lr):
            return step_lib.train_step(before, batch, lr, {}, cfg=cfg)

        taken = jax.vmap(one)(_stacked(states), _stacked(batches), _stacked(rates))
        return tuple(jax.tree.map(lambda x, at=at: x[at], taken) for at in range(size))

    compiled = jax.jit(
        take,
        out_shardings=((placed, whole),) * size,
        compiler_options=step_functions.compiler_options(cfg.execution),
    )

    def call(states, batches, rates):
        with jax.set_mesh(mesh):
            return compiled(tuple(states), tuple(batches), tuple(rates))

    return call


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
