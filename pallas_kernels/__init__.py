"""Kernels for training transformers on GPUs and TPUs, with XLA fallbacks everywhere.

Needs only jax. Every op has a plain `reference` with the same signature. `implementation="auto"`
always works; a named implementation that cannot run says why. An op's folder has its kernels for
Hopper GPUs under gpu/ and those for TPUs under tpu/; all Hopper kernels share `hopper`.
"""

from pallas_kernels.flash_attention import flash_attention, flash_attention_choice
from pallas_kernels.grouped_matmul import grouped_matmul, grouped_matmul_choice, grouped_outer
from pallas_kernels.moe_mlp import moe_mlp
from pallas_kernels.symmetric_matmul import symmetric_matmul, symmetric_matmul_choice

__all__ = [
    "flash_attention",
    "flash_attention_choice",
    "grouped_matmul",
    "grouped_matmul_choice",
    "grouped_outer",
    "moe_mlp",
    "symmetric_matmul",
    "symmetric_matmul_choice",
]
