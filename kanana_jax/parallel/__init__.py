"""Meshes, the one table that says which array axis lives on which mesh axis, and work on parts."""

from kanana_jax.parallel import local
from kanana_jax.parallel.hosts import (
    AnyProcess,
    everyones,
    expect_devices,
    first_then_others,
    gather_on_first,
    is_first,
    is_joined,
    join,
    on_first,
    together,
)
from kanana_jax.parallel.mesh import axis_sizes, check, make_mesh
from kanana_jax.parallel.rules import RULES, partition_spec
from kanana_jax.parallel.sharding import (
    batch_sharding,
    local_rows,
    param_shardings,
    shard_batch,
    state_shardings,
)

__all__ = [
    "RULES",
    "AnyProcess",
    "axis_sizes",
    "batch_sharding",
    "check",
    "everyones",
    "expect_devices",
    "first_then_others",
    "gather_on_first",
    "is_first",
    "is_joined",
    "join",
    "local",
    "local_rows",
    "make_mesh",
    "on_first",
    "param_shardings",
    "partition_spec",
    "shard_batch",
    "state_shardings",
    "together",
]
