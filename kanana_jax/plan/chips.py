"""Published peaks of one device, for the bounds that are arithmetic and not compiled.

Sources: cloud.google.com/tpu/docs/{v5e,v5p,v6e} (per chip). A v5p device is a chip of two cores.
"""

from typing import NamedTuple

from kanana_jax import config


class Chip(NamedTuple):
    hbm_bytes: float
    bf16_flops: float  # per second
    network_bytes: float  # per second, sent to all neighbours together


CHIPS = {
    "v5e": Chip(16 * 2**30, 197e12, 200e9),
    "v5p": Chip(95 * 2**30, 459e12, 600e9),
    "v6e": Chip(32 * 2**30, 918e12, 448e9),
}


def of_topology(topology: str) -> Chip:
    """The chip of a topology such as v5p:8x8x16."""
    kind = topology.partition(":")[0]
    if kind not in CHIPS:
        raise config.ConfigError(
            f"--topology starts with one of {', '.join(CHIPS)}, as in v5p:4x4x4; got {topology!r}"
        )
    return CHIPS[kind]
