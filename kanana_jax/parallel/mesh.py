"""The device mesh, made in one place.

All axes are Auto: the compiler places the collectives. Explicit axes would refuse X X^T over a
sharded axis, which is what Muon computes.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax

from kanana_jax import config


def make_mesh(cfg: config.MeshConfig, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """Makes the mesh that `cfg` asks for over `devices` (default: all of them).

    Raises ConfigError when the axis sizes do not use up the devices exactly.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {"data": cfg.data, "fsdp": cfg.fsdp}
    if any(size == 0 or size < -1 for size in sizes.values()):
        raise config.ConfigError(f"mesh axes must be positive, or -1 for the rest; got {sizes}")
    open_axes = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(open_axes) > 1:
        raise config.ConfigError(f"at most one mesh axis may be -1; got {sizes}")
    if open_axes and len(devices) % fixed == 0:
        sizes[open_axes[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        raise config.ConfigError(
            f"mesh axes {sizes} do not multiply to the {len(devices)} devices present; "
            "set mesh.data and mesh.fsdp so that they do, or one of them to -1"
        )
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(jax.sharding.AxisType.Auto,) * len(sizes),
        devices=devices,
    )


def check_batch(exp: config.Experiment, mesh: jax.sharding.Mesh) -> None:
    """Raises ConfigError unless every device gets the same number of sequences per micro-batch."""
    devices = math.prod(mesh.shape[axis] for axis in config.BATCH_AXES)
    parts = devices * exp.train.accumulation_steps
    if exp.data.batch_size % parts:
        raise config.ConfigError(
            f"data.batch_size = {exp.data.batch_size} does not divide into "
            f"{exp.train.accumulation_steps} micro-batches over {devices} devices"
        )
