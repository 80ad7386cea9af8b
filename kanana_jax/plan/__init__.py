"""What a training step needs on machines that are not here: python -m kanana_jax.plan."""

from kanana_jax import config, extras

with extras.needed("train"):
    from kanana_jax.plan import chips
    from kanana_jax.plan.compile import compile_plan
    from kanana_jax.plan.figures import Plan
    from kanana_jax.plan.lower import estimate_plan
    from kanana_jax.train.step_config import StepConfig

__all__ = ["Plan", "make_plan"]


def make_plan(name: str, cfg: StepConfig, mesh_cfg: config.MeshConfig, topology: str) -> Plan:
    """The plan of `cfg` on TPUs (v5p:8x8x16, compiled) or GPUs (h100:8x8, estimated).

    Raises ConfigError when the mesh, the model and the topology do not go together.
    """
    chips.of_topology(topology)
    make = estimate_plan if chips.platform(topology) == "gpu" else compile_plan
    return make(name, cfg, mesh_cfg, topology)
