"""What `auto` stands for in ExecutionConfig: a pure function of model, batch and device."""

import dataclasses
from typing import NamedTuple

import jax

from kanana_jax import config

# Of a GPU: more layers than these take minutes to compile one by one.
_FEW_LAYERS = 8
_CHUNK_TOKENS = {"cpu": 4096, "gpu": 16_384, "tpu": 4096}


class Device(NamedTuple):
    platform: str  # "cpu", "gpu" or "tpu"
    memory_bytes: int | None = None  # of one device; None where it is not known


def here() -> Device:
    """The devices of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return Device(jax.default_backend(), stats.get("bytes_limit"))


def chosen(
    execution: config.ExecutionConfig,
    shape: config.ModelConfig,
    batch_size: int,
    seq_len: int,
    device: Device,
) -> config.ExecutionConfig:
    """`execution` with numbers and truth values in place of "auto"."""
    picked = {
        "scan_layers": device.platform != "gpu" or shape.num_layers > _FEW_LAYERS,
        "loss_chunk_tokens": _CHUNK_TOKENS[device.platform],
        "accumulation_steps": 1,
    }
    missing = {k: v for k, v in picked.items() if getattr(execution, k) == "auto"}
    return dataclasses.replace(execution, **missing)
