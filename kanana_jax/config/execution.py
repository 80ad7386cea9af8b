"""How a model is computed: nothing here changes what the model is."""

from dataclasses import dataclass
from typing import Literal

from kanana_jax.config import fields
from kanana_jax.config.ranges import Count

# Of a kernel; "auto" always works, the others raise where they cannot run.
Implementation = Literal["auto", "reference", "xla", "mosaic_gpu", "mosaic_tpu"]
Auto = Literal["auto"]
Precision = Literal[
    "full", "fp8_store", "fp8", "fp8_experts", "fp8_float32_scales", "fp8_per_tensor"
]


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """Number format, memory against speed, and which kernels run.

    `auto` is chosen by the model, the batch and the device before anything compiles.
    """

    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    # What is rounded to FP8 before products and kept as FP8 between the passes: docs/precision.md.
    precision: Precision = "full"
    remat: Literal["none", "dots", "full"] = "none"
    # One compiled block for all layers. False suits few layers: none is copied out of a stack, and
    # backward needs less memory, but the time to compile grows with their number.
    scan_layers: bool | Auto = "auto"
    loss_chunk_tokens: Count | Auto = "auto"  # a device forms the logits of this many at a time
    accumulation_steps: Count | Auto = "auto"  # micro-batches per optimizer step
    attention_implementation: Implementation = "auto"
    grouped_matmul_implementation: Implementation = "auto"
    # How tokens reach the experts of other devices: all-gathered, or each sent to its experts'
    # devices only. "auto" sends on TPUs where model/exchange.py finds that it saves half the bytes.
    expert_exchange: Literal["auto", "gather", "ragged"] = "auto"
    # Runs repeat bit for bit on a GPU too, at the cost of some speed there.
    deterministic: bool = False

    def __post_init__(self):
        fields.check(self, "execution")
