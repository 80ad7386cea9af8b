"""Shardings of parameters, optimizer state and batches.

Every parameter names its axes ("layers", "embed", "heads", ...), which `rules` maps to mesh axes.
Optimizer state takes the sharding of the parameter it belongs to; all else is replicated.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax import config
from kanana_jax.parallel import rules


def param_shardings(mesh: Mesh, shapes: Any, logical_axes: Any) -> Any:
    """Shardings for a tree of shapes whose axes are named by a tree of tuples.

    Raises ConfigError when a mesh axis does not divide the array axis it is mapped to.
    """

    def one(path, shape, axes):
        spec = rules.partition_spec(axes)
        for size, name in zip(shape.shape, axes, strict=True):
            parts = math.prod(mesh.shape[axis] for axis in rules.mesh_axes(name))
            if size % parts:
                raise config.ConfigError(
                    f"{jax.tree_util.keystr(path)}: axis {name} of size {size} does not divide "
                    f"over mesh axes {rules.mesh_axes(name)} of size {parts}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, shapes, logical_axes)


def state_shardings(mesh: Mesh, state: Any, params: Any, shardings: Any) -> Any:
    """Shardings for optimizer state: a leaf at a parameter's path and shape follows it."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    of_param = {
        path: (leaf.shape, sharding)
        for (path, leaf), sharding in zip(flat, jax.tree.leaves(shardings), strict=True)
    }

    def one(path, leaf):
        for start in range(len(path)):
            shape, sharding = of_param.get(path[start:], (None, None))
            if shape == leaf.shape:
                return sharding
        return NamedSharding(mesh, P())

    return jax.tree_util.tree_map_with_path(one, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays (B, S) spread over the batch axes and, along the sequence, over context."""
    return NamedSharding(mesh, rules.partition_spec(("batch", "sequence")))


def shard_batch(mesh: Mesh, batch: Any) -> Any:
    """Puts the host arrays of a whole batch, (B, S), on the devices.

    On several hosts each has the whole batch, a pure function of (seed, step), and puts the rows
    of its own devices: any number of hosts continues a run with the same batches.
    """
    sharding = batch_sharding(mesh)

    def put(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, batch)
