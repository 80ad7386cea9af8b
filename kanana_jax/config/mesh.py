"""Devices along each axis of the mesh."""

from dataclasses import dataclass
from typing import Annotated

from kanana_jax.config import fields
from kanana_jax.config.fields import ConfigError
from kanana_jax.config.ranges import Devices, Range

BATCH_AXES = ("data", "fsdp", "expert")  # the mesh axes over which a batch's sequences are spread


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis. -1 (one axis at most) takes the devices that are left."""

    data: Devices = -1
    fsdp: Devices = 1
    expert: Devices = 1
    context: Devices = 1
    tensor: Devices = 1
    # Parts of the machine joined by a slower network; divides data.
    num_slices: Annotated[int, Range(1, 2**20, "no machine has more devices")] = 1

    def __post_init__(self):
        fields.check(self, "mesh")
        open_axes = [name for name, size in vars(self).items() if size == -1]
        if len(open_axes) > 1:
            raise ConfigError(f"at most one mesh axis may be -1, got {', '.join(open_axes)}")
