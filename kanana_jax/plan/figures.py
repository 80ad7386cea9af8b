"""What a plan says, however it was found, and the arithmetic that all plans share."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from kanana_jax.plan import chips, collectives, flops
from kanana_jax.train import choices, state
from kanana_jax.train.step_config import StepConfig

Traffic = Mapping[tuple[str, str], collectives.Traffic]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One device's share of a step. Bytes are resident, or received in one step."""

    preset: str
    topology: str
    mesh: dict[str, int]
    batch_size: int
    seq_len: int
    accumulation_steps: int
    device_kind: str
    hbm_bytes: float
    param_bytes: float
    optimizer_bytes: float
    temporary_bytes: float  # activations, gradients, gathered weights, the program
    model_flops: float  # of a step over all devices; recomputation and Muon left out
    muon_flops: float  # of a step over all devices, every matrix once
    collectives: dict[str, dict[str, float]]  # "kind over axes" -> count and bytes
    num_unknown_loops: int  # counted once: then the collectives are too few
    compute_s: float  # model FLOPs and Muon's at the peak rate
    network_s: float  # all bytes at the peak rate of the links
    compile_s: float  # lowering only, where nothing was compiled
    estimates: tuple[str, ...]  # the figures that are arithmetic; the others are the compiler's

    @property
    def total_bytes(self) -> float:
        return self.param_bytes + self.optimizer_bytes + self.temporary_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.hbm_bytes

    @property
    def mfu_bound(self) -> float:
        """Model FLOPs against the peak, if nothing hides Muon and all network time is hidden."""
        model_s = self.compute_s * self.model_flops / (self.model_flops + self.muon_flops)
        return model_s / max(self.compute_s, self.network_s)


def make(
    name: str,
    cfg: StepConfig,
    topology: str,
    like: state.TrainState,
    sizes: Mapping[str, int],
    traffic: Traffic,
    **found: Any,
) -> Plan:
    """The plan of a step, from its traffic, memory and compile time, however they were found."""
    chip, num_devices = chips.of_topology(topology), math.prod(sizes.values())
    model_flops, muon_flops = (
        flops.of_model(cfg.model, cfg.batch_size, cfg.seq_len),
        flops.of_polar(cfg),
    )
    return Plan(
        preset=name,
        topology=topology,
        mesh=dict(sizes),
        batch_size=cfg.batch_size,
        seq_len=cfg.seq_len,
        accumulation_steps=choices.num_micro(cfg.execution),
        hbm_bytes=chip.hbm_bytes,
        param_bytes=bytes_per_device(like.weights.params),
        optimizer_bytes=bytes_per_device(like.opt_state),
        model_flops=model_flops,
        muon_flops=muon_flops,
        collectives={f"{kind} over {axes}": t._asdict() for (kind, axes), t in traffic.items()},
        compute_s=(model_flops + muon_flops) / chip.bf16_flops / num_devices,
        network_s=network_s(traffic, topology, sizes),
        **found,
    )


def bytes_per_device(tree: Any) -> float:
    """Bytes of a device's shards of a tree of arrays or ShapeDtypeStructs."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def network_s(traffic: Traffic, topology: str, sizes: Mapping[str, int]) -> float:
    """Seconds that a step's bytes take one after the other at the peak rates of the links.

    GPUs are numbered along the last mesh axis first: collectives that leave the GPUs of one host
    take the network between hosts.
    """
    chip = chips.of_topology(topology)
    seconds = 0.0
    for (_, axes), item in traffic.items():
        rate = chip.network_bytes
        if chip.between_hosts_bytes is not None:
            _, gpus = chips.hosts_and_gpus(topology)
            if not _stays_within(gpus, axes.split("+"), sizes):
                rate = chip.between_hosts_bytes
        seconds += item.num_bytes / rate
    return seconds


def _stays_within(gpus: int, axes: list[str], sizes: Mapping[str, int]) -> bool:
    """Whether devices that differ along these mesh axes only are always on one host."""
    names = list(sizes)
    outermost = min(names.index(axis) for axis in axes)
    return gpus % math.prod(sizes[name] for name in names[outermost:]) == 0
