"""What the Hopper kernels share: their launch, their memory, and the ring that the loads fill.

A block of threads is three warpgroups, or four. All but one multiply, each into float32 registers.
The last one loads by TMA into a ring of slots of shared memory. A slot has two barriers: `ready`
opens when its loads have landed, `free` when nobody reads it any more.

Pallas lays scratch memory out in the alphabetical order of its names, so a new name moves buffers.
"""
# Pallas does not list ACC among its exports and leaves its transforms abstract.
# pyright: reportPrivateImportUsage=false, reportAbstractUsage=false

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import dtypes, manual_axes

ROWS = 64  # rows of one warpgroup: the M of a wgmma instruction
COMPUTE = 2  # warpgroups that multiply
SWIZZLE_BYTES = 128  # width of a swizzled tile, the widest that TMA writes and wgmma reads
SWIZZLE = plgpu.SwizzleTransform(SWIZZLE_BYTES)


def why_not(platform: str) -> str | None:
    """The reason why kernels for Hopper GPUs cannot run on this backend, or None."""
    if platform != "gpu":
        return f"it needs a Hopper GPU, the default backend is {platform}"
    capability = getattr(jax.devices()[0], "compute_capability", "unknown")
    if capability != "9.0":
        return f"it needs compute capability 9.0 (Hopper), the GPU has {capability}"
    return None


def call(kernel: Callable, *arrays):
    """Runs a kernel on arrays where JAX has 64 bits, under vmap, and over manual mesh axes."""

    @jax.custom_batching.sequential_vmap
    def run(*arrays):
        # A kernel's output forgets the mesh axes on which its inputs vary.
        out = dtypes.in_32_bits(kernel)(*arrays)
        return jax.tree.map(lambda x: manual_axes.align(x, arrays[0])[0], out)

    return run(*arrays)


def pad_rows(x: jax.Array, step: int) -> jax.Array:
    """Appends zeros, so that `step` divides the first dimension."""
    missing = -x.shape[0] % step
    return jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1))) if missing else x


def launch(
    interpret: bool, *, approx_math: bool = True, num_compute: int = COMPUTE
) -> dict[str, Any]:
    """Keywords of every kernel: its warpgroups, and what the compiler may do."""
    return dict(
        num_threads=num_compute + 1,
        thread_name="warpgroup",
        interpret=plgpu.InterpretGPUParams(detect_races=True) if interpret else None,
        compiler_params=plgpu.CompilerParams(
            approx_math=approx_math,
            unsafe_no_auto_barriers=True,
            reduction_scratch_bytes=0,
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup,
        ),
    )


def specialize(
    warpgroup,
    compute: Callable,
    load: Callable,
    *,
    compute_registers: int = 240,
    load_registers: int = 24,
    num_compute: int = COMPUTE,
) -> None:
    """Runs compute(warpgroup) on the warpgroups that multiply and load() on the last one.

    Registers are counted per thread.
    """

    @pl.when(warpgroup < num_compute)
    def _():
        plgpu.set_max_registers(compute_registers, action="increase")
        compute(warpgroup)

    @pl.when(warpgroup == num_compute)
    def _():
        plgpu.set_max_registers(load_registers, action="decrease")
        load()


def pick[T](kind: Callable[..., T], scratch: Mapping[str, Any]) -> T:
    """Makes a NamedTuple of the scratch that its fields name; Pallas passes scratch by name."""
    names = inspect.signature(kind).parameters
    return kind(**{name: scratch[name] for name in names if name in scratch})


def tile_cols(dtype) -> int:
    """Elements in a row of a swizzled tile."""
    return SWIZZLE_BYTES // jnp.dtype(dtype).itemsize


def tiled(shape: tuple[int, ...], dtype):
    """Shared memory in the swizzle that TMA writes and wgmma reads: 128 bytes, or a whole row."""
    itemsize = jnp.dtype(dtype).itemsize
    num_bytes = min(SWIZZLE_BYTES, shape[-1] * itemsize)
    tiling = plgpu.TilingTransform((8, num_bytes // itemsize))
    return plgpu.SMEM(shape, dtype, transforms=(tiling, plgpu.SwizzleTransform(num_bytes)))


def accumulator(num_rows: int, num_cols: int):
    """Float32 registers that wgmma adds to, zero at first."""
    return plgpu.ACC((num_rows, num_cols), jnp.float32)


class Slots(NamedTuple):
    """The barriers of a ring, and how many slots it has."""

    ready: Any
    free: Any
    num_stages: int


def slot_of(step, num_stages: int):
    """The slot that a step uses."""
    return lax.rem(step, np.int32(num_stages))


def wait_until_free(step, slot, slots: Slots) -> None:
    """Waits until nobody reads what the slot of a step held before."""

    @pl.when(step >= slots.num_stages)
    def _():
        plgpu.barrier_wait(slots.free.at[slot])


def wait_for_slot(step, slots: Slots):
    """Returns the slot of a step once it is free."""
    slot = slot_of(step, slots.num_stages)
    wait_until_free(step, slot, slots)
    return slot


def drain(num_steps, slots: Slots) -> None:
    """Neither a block nor interpret mode may end with releases that nobody has seen."""

    @pl.loop(jnp.maximum(0, num_steps - slots.num_stages), num_steps)
    def _(step):
        plgpu.barrier_wait(slots.free.at[slot_of(step, slots.num_stages)])
