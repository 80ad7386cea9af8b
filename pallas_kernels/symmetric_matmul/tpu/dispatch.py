"""Symmetric products for TPUs in Pallas: when, and which arrays go into VMEM.

    out = scale lhs rhs^T + addend_scale addend + diagonal I

Letters: M side of the result, K contracted width.
"""

from typing import Any

import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import dtypes, manual_axes
from pallas_kernels.symmetric_matmul.tpu import kernel

# Chips that the kernel was compiled for, and the smallest tile that "auto" takes: with smaller ones
# the schedule of `kernel.TILES` is as long as the whole square at peak, or nearly.
CHIPS: dict[Any, int] = {pltpu.ChipVersion("v5p"): 256, pltpu.ChipVersion("v6e"): 512}


@dtypes.in_32_bits
def matmul(lhs, rhs, addend, *, scale, addend_scale, diagonal, interpret=False):
    """The product; arguments are already checked and vary alike."""
    factors = (scale, addend_scale, diagonal)
    coefficients = jnp.stack([jnp.asarray(x, jnp.float32) for x in factors])
    arrays = distinct(lhs, rhs, addend)
    which = tuple(
        next((i for i, y in enumerate(arrays) if x is y), None) for x in (lhs, rhs, addend)
    )
    flat = [x.reshape(-1, *x.shape[-2:]) for x in arrays]
    out = kernel.product(coefficients, *flat, which=which, interpret=interpret)
    return manual_axes.vary_like(lhs, out.reshape(*lhs.shape[:-1], lhs.shape[-2]))


def distinct(*arrays) -> list[Any]:
    """The arrays that are not None, each once: what VMEM must hold."""
    found = []
    for x in arrays:
        if x is not None and not any(x is y for y in found):
            found.append(x)
    return found


def why_not(problem) -> str | None:
    """The reason why this kernel cannot run a problem, or None."""
    lhs = problem.lhs
    if not pltpu.is_tpu_device():
        return f"it needs a TPU, the default backend is {problem.platform}"
    info = pltpu.get_tpu_info()
    if info.chip_version not in CHIPS:
        return f"it needs one of the TPUs {', '.join(map(str, CHIPS))}, got {info.chip_version}"
    if lhs.dtype != jnp.bfloat16:
        return f"it needs bfloat16, got {lhs.dtype}"
    if lhs.shape[-2] % kernel.LANES or lhs.shape[-1] % kernel.LANES:
        return f"it needs M and K to be multiples of {kernel.LANES}, got {lhs.shape[-2:]}"
    needed = kernel.vmem_bytes(problem.arrays)
    if needed > info.vmem_capacity_bytes:
        return f"it needs {needed} bytes of VMEM, the TPU has {info.vmem_capacity_bytes}"
    if manual_axes.is_partitioned_by_compiler():
        return "it needs shard_map on a mesh of several devices"
    if not problem.is_named and kernel.choose_tile(lhs.shape[-2]) < CHIPS[info.chip_version]:
        return f"XLA is taken to be as fast at {lhs.shape}"
    return None
