"""Plans for GPUs by arithmetic, because XLA compiles for them only with a CUDA installation.

The real train step is traced and lowered for CUDA on an abstract mesh, which finds what cannot be
sharded, and gives the exact bytes of parameters and optimizer state. All else is the cost model's.
"""

import time

import jax

from kanana_jax import config, parallel
from kanana_jax.plan import chips, cost_model, figures
from kanana_jax.train import choices, step_functions
from kanana_jax.train.step_config import StepConfig

_ESTIMATES = ("temporary_bytes", "collectives", "compute_s", "network_s", "mfu")


def estimate_plan(
    name: str, cfg: StepConfig, mesh_cfg: config.MeshConfig, topology: str
) -> figures.Plan:
    """Lowers the step of `cfg` for hosts of GPUs such as h100:8x8, and estimates what it needs.

    Raises ConfigError when the topology is unknown, the mesh does not fit it or the model, or
    layers are not recomputed: the cost model does not know their memory.
    """
    if cfg.execution.remat != "full":
        raise config.ConfigError(
            f"estimates for GPUs know execution.remat=full, got {cfg.execution.remat}; leave it out"
        )
    hosts, gpus = chips.hosts_and_gpus(topology)
    sizes = parallel.axis_sizes(mesh_cfg, hosts * gpus)
    parallel.check(cfg.model, cfg.batch_size, cfg.seq_len, choices.num_micro(cfg.execution), sizes)
    kinds = (jax.sharding.AxisType.Auto,) * len(sizes)
    kind = topology.partition(":")[0].upper()
    mesh = jax.sharding.AbstractMesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=kinds,
        abstract_device=jax.sharding.AbstractDevice(kind, None, "gpu"),
    )
    steps = step_functions.build(cfg, mesh)
    start = time.monotonic()
    steps.lower(("cuda",))
    return figures.make(
        name,
        cfg,
        topology,
        steps.like,
        sizes,
        cost_model.traffic(cfg, sizes, "gpu"),
        device_kind=kind,
        temporary_bytes=cost_model.temporary_bytes(cfg, sizes),
        num_unknown_loops=0,
        compile_s=time.monotonic() - start,
        estimates=_ESTIMATES,
    )
