"""Meshes, and the one table that says which array axis lives on which mesh axis."""

from kanana_jax.parallel.mesh import check_batch, make_mesh
from kanana_jax.parallel.sharding import (
    RULES,
    batch_sharding,
    param_shardings,
    shard_batch,
    state_shardings,
)

__all__ = [
    "RULES",
    "batch_sharding",
    "check_batch",
    "make_mesh",
    "param_shardings",
    "shard_batch",
    "state_shardings",
]
