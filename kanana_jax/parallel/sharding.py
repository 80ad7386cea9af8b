"""From logical axis names to shardings.

Every parameter names its axes ("layers", "embed", "heads", ...); RULES maps each name to mesh axes.
Optimizer state takes the sharding of the parameter it belongs to; all else is replicated.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax import config

RULES: dict[str, tuple[str, ...]] = {
    "layers": (),
    "experts": (),
    "vocab": (),
    "embed": ("fsdp",),
    "heads": (),
    "head_dim": (),
    "q_lora": (),
    "kv_lora": (),
    "mlp": (),
    "gate_up": (),
    "norm": (),
}


def partition_spec(logical_axes: tuple[str, ...]) -> P:
    """Looks every axis up; raises ValueError on an unknown name or a mesh axis used twice."""
    unknown = [name for name in logical_axes if name not in RULES]
    if unknown:
        raise ValueError(f"no sharding rule for axes {unknown}; rules exist for {sorted(RULES)}")
    mesh_axes = [axis for name in logical_axes for axis in RULES[name]]
    if len(set(mesh_axes)) < len(mesh_axes):
        raise ValueError(f"axes {logical_axes} map twice to a mesh axis: {mesh_axes}")
    return P(*(RULES[name] or None for name in logical_axes))


def param_shardings(mesh: Mesh, shapes: Any, logical_axes: Any) -> Any:
    """Shardings for a tree of shapes whose axes are named by a tree of tuples.

    Raises ConfigError when a mesh axis does not divide the array axis it is mapped to.
    """

    def one(path, shape, axes):
        spec = partition_spec(axes)
        for size, name in zip(shape.shape, axes, strict=True):
            parts = math.prod(mesh.shape[axis] for axis in RULES[name])
            if size % parts:
                raise config.ConfigError(
                    f"{jax.tree_util.keystr(path)}: axis {name} of size {size} does not divide "
                    f"over mesh axes {RULES[name]} of size {parts}"
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
    """Arrays (B, ...) spread over the batch axes."""
    return NamedSharding(mesh, P(config.BATCH_AXES))


def shard_batch(mesh: Mesh, batch: Any) -> Any:
    """Puts the host arrays of a batch, (B, ...), on the devices, spread over the batch axes."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.device_put(np.asarray(x), sharding), batch)
