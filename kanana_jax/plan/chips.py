"""Published peaks of one device, for the bounds that are arithmetic and not compiled.

Sources: cloud.google.com/tpu/docs/{v5e,v5p,v6e} (per chip; a v5p device is a chip of two cores) and
NVIDIA's data sheets of H100 SXM and H200 SXM, dense bfloat16, NVLink in one direction, with one
400 Gb/s adapter per GPU between hosts.
"""

import math
from typing import Any, NamedTuple

from kanana_jax import config


class Chip(NamedTuple):
    hbm_bytes: float
    bf16_flops: float  # per second
    network_bytes: float  # received per second from all neighbours together
    between_hosts_bytes: float | None = None  # received per second; None: one network joins all


TPUS = {
    "v5e": Chip(16 * 2**30, 197e12, 200e9),
    "v5p": Chip(95 * 2**30, 459e12, 600e9),
    "v6e": Chip(32 * 2**30, 918e12, 448e9),
}
GPUS = {
    "h100": Chip(80 * 2**30, 989e12, 450e9, 50e9),
    "h200": Chip(141 * 10**9, 989e12, 450e9, 50e9),
}


def of_device(device: Any) -> Chip | None:
    """The chip of a jax.Device by its kind, e.g. "NVIDIA H100 80GB HBM3"; None if not known."""
    known, kind = TPUS | GPUS, device.device_kind.lower()
    # "TPU v6 lite" is sold as v6e, "TPU v5 lite" as v5e and "TPU v5" as v5p.
    kind = kind.replace("v6 lite", "v6e").replace("v5 lite", "v5e")
    kind = "v5p" if kind == "tpu v5" else kind
    return next((chip for name, chip in known.items() if name in kind), None)


def of_topology(topology: str) -> Chip:
    """The chip of a topology such as v5p:8x8x16, or h100:8x8 (hosts x GPUs of each)."""
    kind, known = topology.partition(":")[0], TPUS | GPUS
    if kind not in known:
        raise config.ConfigError(
            f"--topology starts with one of {', '.join(known)}, as in v5p:4x4x4 or h100:8x8; "
            f"got {topology!r}"
        )
    return known[kind]


def num_devices(topology: str) -> int:
    """Devices of a topology such as v5p:4x4x4 or h100:8x8."""
    sides = topology.partition(":")[2].split("x")
    if not all(side.isdecimal() and int(side) for side in sides):
        raise config.ConfigError(
            f"a topology has numbers between x behind its colon, as in v5p:4x4x4; got {topology!r}"
        )
    return math.prod(map(int, sides))


def platform(topology: str) -> str:
    """The platform of a topology: gpu or tpu."""
    return "gpu" if topology.partition(":")[0] in GPUS else "tpu"


def hosts_and_gpus(topology: str) -> tuple[int, int]:
    """Hosts, and GPUs of each, of a topology such as h100:8x8."""
    hosts, _, gpus = topology.partition(":")[2].partition("x")
    if not (hosts.isdecimal() and gpus.isdecimal() and int(hosts) and int(gpus)):
        raise config.ConfigError(
            f"a topology of GPUs is hosts x GPUs of each, as in h100:8x8; got {topology!r}"
        )
    return int(hosts), int(gpus)
