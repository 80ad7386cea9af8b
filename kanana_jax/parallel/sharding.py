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


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """The rows of a batch that live on this process's devices, ascending.

    Processes that share rows, where context or tensor spans hosts, each have them.
    """
    places = batch_sharding(mesh).addressable_devices_indices_map((batch_size, mesh.size))
    rows = [range(batch_size)[index[0]] for index in places.values() if index is not None]
    return sorted(set().union(*rows))


def shard_batch(mesh: Mesh, batch: Any, batch_size: int | None = None) -> Any:
    """Puts a batch's rows `local_rows(mesh, batch_size)`, host arrays (R, S), on the devices.

    The returned arrays are the whole batch, (batch_size, S), on all processes' devices. A process
    that has all rows need not say how many. Raises ValueError on another number of rows.
    """

    def put(x):
        x = np.asarray(x)
        size = len(x) if batch_size is None else batch_size
        rows = local_rows(mesh, size)
        if len(x) != len(rows):
            raise ValueError(
                f"{len(rows)} of {size} rows are on this process's devices, got {len(x)}; load "
                "those of parallel.local_rows and give their batch_size"
            )

        def part(index):
            begin, end, _ = index[0].indices(size)
            first = rows.index(begin)
            return x[first : first + end - begin, index[1]]

        shape = (size, *x.shape[1:])
        return jax.make_array_from_callback(shape, batch_sharding(mesh), part)

    return jax.tree.map(put, batch)
