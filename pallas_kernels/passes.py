"""One pass over arrays on Hopper: a block of threads loads its tiles, works, and stores others.

One warpgroup waits for its tiles while others of the same multiprocessor work: a multiprocessor
runs as many blocks as its shared memory has room for. No number is read twice.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper


class Tile(NamedTuple):
    """The part of one array that each block of threads loads or stores.

    at(row, col) is where it lies, given the block's place on the grid. Tiles of 16 or 8 bits with
    two dimensions are swizzled.
    """

    array: int  # among the inputs, or the outputs
    shape: tuple[int, ...]
    at: Callable[[Any, Any], Any]


class _Memory(NamedTuple):
    landed: Any
    loaded: Any
    stored: Any


def call(
    body: Callable[[Sequence[Any], Sequence[Any]], None],
    arrays: Sequence[jax.Array],
    out_types: Sequence[jax.ShapeDtypeStruct],
    *,
    loads: Sequence[Tile],
    stores: Sequence[Tile],
    grid: tuple[int, int],
    name: str,
    interpret: bool,
    approx_math: bool = False,
) -> Sequence[jax.Array]:
    """Runs body(loaded, to_store) on references to the tiles in shared memory.

    With approx_math exp is one instruction, and is off by a few units in the last place.
    """

    def kernel(*refs, **scratch):
        sources, targets = refs[: len(arrays)], refs[len(arrays) :]
        memory = hopper.pick(_Memory, scratch)
        row, col = (lax.axis_index(axis) for axis in ("row", "col"))
        for tile, smem in zip(loads, memory.loaded, strict=True):
            plgpu.copy_gmem_to_smem(sources[tile.array].at[tile.at(row, col)], smem, memory.landed)
        plgpu.barrier_wait(memory.landed)
        body(memory.loaded, memory.stored)
        plgpu.commit_smem()
        for tile, smem in zip(stores, memory.stored, strict=True):
            plgpu.copy_smem_to_gmem(smem, targets[tile.array].at[tile.at(row, col)])
        plgpu.wait_smem_to_gmem(0)

    return plgpu.kernel(
        kernel,
        out_type=tuple(out_types),
        scratch_types=dict(
            landed=plgpu.Barrier(num_arrivals=len(loads)),
            loaded=[_smem(tile, arrays) for tile in loads],
            stored=[_smem(tile, out_types) for tile in stores],
        ),
        kernel_name=name,
        grid=grid,
        grid_names=("row", "col"),
        interpret=plgpu.InterpretGPUParams(detect_races=True) if interpret else None,
        compiler_params=plgpu.CompilerParams(
            approx_math=approx_math,
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup,
        ),
    )(*arrays)


def _smem(tile: Tile, arrays: Sequence[jax.Array | jax.ShapeDtypeStruct]):
    dtype = jnp.dtype(arrays[tile.array].dtype)
    is_swizzled = len(tile.shape) == 2 and tile.shape[0] % 8 == 0
    return (hopper.tiled if is_swizzled else plgpu.SMEM)(tile.shape, dtype)
