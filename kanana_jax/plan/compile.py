"""Compiles a real train step for TPUs that are not there, and reads what it needs.

Compiled: memory by class, collectives and their bytes, compile time. Arithmetic, from published
peaks: FLOPs and the bound on MFU.
"""

import dataclasses
import math
import os
import time
from typing import Any

import jax
from jax.experimental import topologies

from kanana_jax import config, parallel
from kanana_jax.plan import chips, collectives, flops
from kanana_jax.train import step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One device's share of a step. Bytes are resident, or received in one step."""

    preset: str
    topology: str
    mesh: dict[str, int]
    batch_size: int
    seq_len: int
    device_kind: str
    hbm_bytes: float
    param_bytes: float
    optimizer_bytes: float
    temporary_bytes: float  # activations, gradients, gathered weights, the program
    model_flops: float  # of a step over all devices; recomputation and Muon left out
    muon_flops: float  # of a step over all devices, every matrix once
    collectives: dict[str, dict[str, float]]  # "kind over axes" -> count and bytes
    num_unknown_loops: int  # counted once: then the collectives are too few
    compute_s: float  # model FLOPs and Muon's at the peak rate: an estimate
    network_s: float  # all bytes at the peak rate of all links: an estimate
    compile_s: float

    @property
    def total_bytes(self) -> float:
        return self.param_bytes + self.optimizer_bytes + self.temporary_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.hbm_bytes

    @property
    def mfu_bound(self) -> float:
        """Model FLOPs against the peak, if Muon hides nothing and the network everything."""
        model_s = self.compute_s * self.model_flops / (self.model_flops + self.muon_flops)
        return model_s / max(self.compute_s, self.network_s)


def compile_plan(exp: config.Experiment, topology: str) -> Plan:
    """Compiles the step of `exp` for a topology such as v5p:8x8x16.

    Raises ConfigError when the topology is unknown or the mesh does not fit it or the model.
    """
    chip = chips.of_topology(topology)
    devices = _devices(topology)
    parallel.check(exp, parallel.axis_sizes(exp.mesh, len(devices)))
    mesh = parallel.make_mesh(exp.mesh, devices)
    steps = step.build(exp, mesh)
    start = time.monotonic()
    compiled = steps.lower().compile()
    compile_s = time.monotonic() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None  # optional for other backends only
    arguments = _bytes_per_device((steps.like.params, steps.like.opt_state))
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    moved = collectives.traffic(text, mesh.shape)
    model_flops, muon_flops = flops.of_model(exp), flops.of_muon(exp)
    return Plan(
        preset=exp.name,
        topology=topology,
        mesh=dict(mesh.shape),
        batch_size=exp.data.batch_size,
        seq_len=exp.data.seq_len,
        device_kind=devices[0].device_kind,
        hbm_bytes=chip.hbm_bytes,
        param_bytes=_bytes_per_device(steps.like.params),
        optimizer_bytes=_bytes_per_device(steps.like.opt_state),
        temporary_bytes=total - arguments,
        model_flops=model_flops,
        muon_flops=muon_flops,
        collectives={f"{kind} over {axes}": item._asdict() for (kind, axes), item in moved.items()},
        num_unknown_loops=collectives.num_unknown_loops(text),
        compute_s=(model_flops + muon_flops) / chip.bf16_flops / len(devices),
        network_s=sum(item.num_bytes for item in moved.values()) / chip.network_bytes,
        compile_s=compile_s,
    )


def _devices(topology: str) -> list[Any]:
    # Compiling owns no TPU: other processes may load libtpu too.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise config.ConfigError(
            f"--topology={topology} cannot be compiled for here: {reason}; "
            "libtpu comes with pip install -e '.[aot]'"
        ) from error
    return list(description.devices)


def _bytes_per_device(tree: Any) -> float:
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )
