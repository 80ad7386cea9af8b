"""What `auto` stands for in ExecutionConfig: a pure function of model, batch, mesh and device.

    scan_layers           false for a few layers on a GPU: none is copied out of a stack
    loss_chunk_tokens     logits take at most a sixth of a GPU's memory; 4,096 tokens elsewhere
    accumulation_steps    the fewest micro-batches whose estimated memory fits into the device

The first two are what measured best on an H100 and an H200 with Kanana-2-30B's widths. The third is
arithmetic: per parameter four float32 numbers (weight, gradient, two moments) and one more for an
average, and per token and layer what the backward pass reads.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kanana_jax import config, model
from kanana_jax.train import trained

_FEW_LAYERS = 8  # more take minutes to compile one by one
_CHUNKS = (16_384, 8192, 4096)  # tokens, largest first
_LOGIT_BYTES = 6  # float32, and its gradient in 16 bits
_TEACHER_LOGIT_BYTES = 8  # a live teacher's beside it: logit and probability in float32
_TEACHER_BYTES = 4  # per parameter
_STATE_BYTES, _AVERAGE_BYTES = 16, 4
_USABLE = 0.9  # of the memory
_OFF = config.LoraConfig()


class Device(NamedTuple):
    platform: str  # "cpu", "gpu" or "tpu"
    memory_bytes: float | None = None  # of one device; None where it is not known


def here() -> Device:
    """The devices of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return Device(jax.default_backend(), stats.get("bytes_limit"))


def chosen(
    execution: config.ExecutionConfig,
    shape: config.ModelConfig,
    batch_size: int,
    seq_len: int,
    sizes: Mapping[str, int],
    device: Device,
    *,
    keeps_average: bool = False,
    lora: config.LoraConfig = _OFF,
    teacher: config.ModelConfig | None = None,
) -> config.ExecutionConfig:
    """`execution` with numbers and truth values in place of "auto".

    `sizes` are the mesh's, `teacher` the shape of a model that the step runs beside this one.
    """
    logit_bytes = _LOGIT_BYTES + (0 if teacher is None else _TEACHER_LOGIT_BYTES)
    fitting = _fill(
        execution,
        scan_layers=device.platform != "gpu" or shape.num_layers > _FEW_LAYERS,
        loss_chunk_tokens=_chunk_tokens(shape.vocab_size * logit_bytes, device),
    )
    if fitting.accumulation_steps != "auto":
        return fitting
    rows = max(1, batch_size // math.prod(sizes[axis] for axis in config.BATCH_AXES))
    counts = [count for count in range(1, rows + 1) if rows % count == 0]
    if device.memory_bytes is None:
        return _fill(fitting, accumulation_steps=1)
    kept = _state_bytes(shape, sizes, keeps_average, lora, teacher)
    kept += float(fitting.loss_chunk_tokens) * shape.vocab_size * logit_bytes
    free = _USABLE * device.memory_bytes - kept
    per_row = _token_bytes(fitting, shape) * seq_len / (sizes["context"] * sizes["tensor"])
    fits = [count for count in counts if per_row * rows / count <= free]
    return _fill(fitting, accumulation_steps=min(fits, default=rows))


def _fill(execution: config.ExecutionConfig, **picked: bool | int) -> config.ExecutionConfig:
    missing = {name: value for name, value in picked.items() if getattr(execution, name) == "auto"}
    return dataclasses.replace(execution, **missing)


def _chunk_tokens(bytes_of_token: int, device: Device) -> int:
    if device.platform != "gpu" or device.memory_bytes is None:
        return _CHUNKS[-1]
    room = device.memory_bytes / 6
    fits = [count for count in _CHUNKS if count * bytes_of_token <= room]
    return max(fits, default=_CHUNKS[-1])


def _state_bytes(
    shape: config.ModelConfig,
    sizes: Mapping[str, int],
    keeps_average: bool,
    lora: config.LoraConfig,
    teacher: config.ModelConfig | None,
) -> float:
    each = _STATE_BYTES + keeps_average * _AVERAGE_BYTES
    kept = each * trained.count(shape, lora)
    if lora.rank:
        kept += jnp.dtype(lora.base_dtype).itemsize * model.num_params(shape)[0]
    if teacher is not None:
        kept += _TEACHER_BYTES * model.num_params(teacher)[0]
    return kept / math.prod(sizes[axis] for axis in ("fsdp", "expert", "tensor"))


def _token_bytes(execution: config.ExecutionConfig, shape: config.ModelConfig) -> float:
    """Bytes of one token that the backward pass of all layers reads."""
    item = 4 if execution.compute_dtype == "float32" else 2
    hidden = shape.hidden_size
    if execution.remat == "full":
        return item * shape.num_layers * hidden
    num_heads = shape.num_heads + (shape.num_kv_heads or shape.num_heads)
    heads = num_heads * (shape.qk_head_dim + shape.v_head_dim)
    experts = shape.num_experts_per_token * (3 * shape.moe_intermediate_size + hidden)
    shared = 3 * shape.num_shared_experts * shape.moe_intermediate_size
    each = 8 * hidden + heads
    dense = shape.num_dense_layers * 3 * shape.intermediate_size
    return item * (shape.num_layers * each + dense + shape.num_moe_layers * (experts + shared))


def num_micro(execution: config.ExecutionConfig) -> int:
    """Micro-batches per step."""
    count = execution.accumulation_steps
    return 1 if count == "auto" else count


def chunk_tokens(execution: config.ExecutionConfig) -> int:
    """Tokens whose logits a device forms at a time."""
    count = execution.loss_chunk_tokens
    return 4096 if count == "auto" else count
