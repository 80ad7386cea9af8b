"""Meshes, the one table that says which array axis lives on which mesh axis, work on parts."""

from kanana_jax.parallel import local
from kanana_jax.parallel.hosts import join
from kanana_jax.parallel.mesh import axis_sizes, check, make_mesh
from kanana_jax.parallel.rules import RULES, partition_spec
from kanana_jax.parallel.sharding import (
    batch_sharding,
    param_shardings,
    shard_batch,
    state_shardings,
)

__all__ = [
    "RULES",
    "axis_sizes",
    "batch_sharding",
    "check",
    "join",
    "local",
    "make_mesh",
    "param_shardings",
    "partition_spec",
    "shard_batch",
    "state_shardings",
]
