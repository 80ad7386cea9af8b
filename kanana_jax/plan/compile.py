"""Compiles a real train step for TPUs that are not there, and reads what it needs.

Compiled: memory by class, collectives and their bytes, compile time. Arithmetic, from published
peaks: FLOPs and the bound on MFU; and bytes of ragged all-to-alls, for balanced routing.
"""

import os
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import topologies

from kanana_jax import config, parallel
from kanana_jax.plan import collectives, cost_model, figures
from kanana_jax.train import choices, step_functions
from kanana_jax.train.step_config import StepConfig

_ESTIMATES = ("compute_s", "network_s", "mfu")


def compile_plan(
    name: str, cfg: StepConfig, mesh_cfg: config.MeshConfig, topology: str
) -> figures.Plan:
    """Compiles the step of `cfg` for a topology such as v5p:8x8x16.

    Raises ConfigError when the topology is unknown, the mesh does not fit it or the model, or the
    compiler finds no way to fit the step into the memory of a device.
    """
    devices = _devices(topology)
    sizes = parallel.axis_sizes(mesh_cfg, len(devices))
    parallel.check(cfg.model, cfg.batch_size, cfg.seq_len, choices.num_micro(cfg.execution), sizes)
    mesh = parallel.make_mesh(mesh_cfg, devices)
    steps = step_functions.build(cfg, mesh)
    start = time.monotonic()
    compiled = _compile(steps)
    compile_s = time.monotonic() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None  # optional for other backends only
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    arguments = figures.bytes_per_device((steps.like.weights.params, steps.like.opt_state))
    return figures.make(
        name,
        cfg,
        topology,
        steps.like,
        mesh.shape,
        _traffic(text, cfg, mesh.shape),
        device_kind=devices[0].device_kind,
        temporary_bytes=total - arguments,
        num_unknown_loops=collectives.num_unknown_loops(text),
        compile_s=compile_s,
        estimates=_ESTIMATES,
    )


def _traffic(hlo: str, cfg: StepConfig, sizes: Mapping[str, int]) -> figures.Traffic:
    """The compiled collectives; only the cost model knows how full the ragged ones are."""
    found, expected = collectives.traffic(hlo, sizes), cost_model.traffic(cfg, sizes)
    for key in found.keys() & expected.keys():
        if key[0] == "ragged-all-to-all":
            found[key] = found[key]._replace(num_bytes=expected[key].num_bytes)
    return found


def _compile(steps: step_functions.Steps) -> jax.stages.Compiled:
    lowered = steps.lower()
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        kept = {"parameters": steps.like.weights.params, "optimizer state": steps.like.opt_state}
        sizes = (
            f"{figures.bytes_per_device(tree) / 2**30:.1f} GiB of {name}"
            for name, tree in kept.items()
        )
        reason = str(error).strip().splitlines()[0].partition("RESOURCE_EXHAUSTED: ")[2]
        raise config.ConfigError(
            f"the step does not fit: with {' and '.join(sizes)} per device, the compiler says "
            f"{reason!r}; raise execution.accumulation_steps for fewer activations at a time, or "
            "mesh.fsdp, mesh.expert, mesh.tensor or mesh.context for smaller parts"
        ) from error


def _devices(topology: str) -> list[Any]:
    # Compiling owns no TPU: other processes may load libtpu too.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise config.ConfigError(
            f"--topology={topology} cannot be compiled for here: {reason}; "
            "libtpu comes with pip install -e '.[train,aot]'"
        ) from error
    return list(description.devices)
