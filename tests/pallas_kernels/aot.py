"""Compiles for TPUs that are not there, and reads how much VMEM each kernel takes."""

import functools
import os
import re

import jax
from jax.experimental import topologies

# One host of each kind; a v5p device is a chip of two cores.
TOPOLOGIES = {"v5p": "v5p:2x2x1", "v5e": "v5e:2x2", "v6e": "v6e:2x2", "7x": "tpu7x:2x2x1"}


def compile_for(tpu, function, *args):
    """function compiled for one device of a TPU; args are arrays or ShapeDtypeStructs.

    While it is traced, Pallas takes that device for the default one (`pltpu.get_tpu_info`).
    """
    mesh = jax.sharding.Mesh(topology(tpu).devices[:1], ("device",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def place(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(function).lower(*jax.tree.map(place, args)).compile()


@functools.cache
def topology(tpu):
    """The devices of one host; their `device_kind` is what a real one would say."""
    # Compiling owns no TPU: other processes may load libtpu too.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    return topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[tpu])


def vmem_bytes(compiled):
    """Bytes of VMEM by Pallas kernel, as XLA writes them into its calls."""
    calls = re.findall(
        r'%(\S+) = .*custom_call_target="tpu_custom_call".*"used_scoped_memory_configs":'
        r'\[{"memory_space":"1","offset":"\d+","size":"(\d+)"}',
        compiled.as_text(),
    )
    return {name: int(size) for name, size in calls}
