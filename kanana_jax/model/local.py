"""Kernels run on one device's sequences: the compiler cannot split what it cannot see into."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from kanana_jax import config


def on_local_sequences(fn: Callable, batched: tuple, replicated: tuple = ()) -> Any:
    """Calls fn(*batched, *replicated) on each device's share of the leading (batch) axis.

    The mesh is the one set by `jax.set_mesh`; without one, or with one device along the batch axes,
    this is a plain call. Outputs must have the batch axis first.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in config.BATCH_AXES if mesh.shape.get(axis, 1) > 1)
    if not axes:
        return fn(*batched, *replicated)
    specs = jax.tree.map(lambda _: P(axes), batched), jax.tree.map(lambda _: P(), replicated)
    return jax.shard_map(fn, in_specs=(*specs[0], *specs[1]), out_specs=P(axes))(
        *batched, *replicated
    )
