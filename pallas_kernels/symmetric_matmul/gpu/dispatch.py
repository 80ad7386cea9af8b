"""Symmetric products for Hopper GPUs in Pallas Mosaic GPU: when, and with which configuration.

    out = scale lhs rhs^T + addend_scale addend + diagonal I

Letters: B batch, M side of the result, K contracted width.
"""

import math

import jax
import jax.numpy as jnp

from pallas_kernels import dtypes, hopper, manual_axes
from pallas_kernels.symmetric_matmul import tiles
from pallas_kernels.symmetric_matmul.gpu import kernel

_DTYPES = (jnp.bfloat16, jnp.float16)
# Below these "auto" leaves the product to XLA. Short edges waste tiles and are bound by memory;
# fewer tiles than half the multiprocessors leave the rest idle.
MIN_SIDE = 256
MIN_TILES = 66
# Tiles per item and blocks per cluster -> time of a round of items, in halves of a two-tile item,
# for a contracted width of up to _SHORT and for longer ones, where L2 counts for more.
_ROUND_TIMES = {(2, 2): (2.2, 2.2), (2, 1): (2.3, 2.35), (1, 1): (1.18, 1.28)}
_SHORT = 2048
# Operands times K up to which a ring of single tiles has six stages, else five. Blocks drift apart
# in a long stack, the more the further their loads run ahead, until L2 no longer holds what they
# share. On 1024 matrices of side 768, products of two operands took 1.9 times as long with six as
# with five, and those of one at K = 2048 took 1.2 times as long; those of one at K = 768 were 6 %
# faster.
_SIX_STAGES = 1024


@dtypes.in_32_bits
def matmul(lhs, rhs, addend, *, scale, addend_scale, diagonal, config=None, interpret=False):
    """The product; arguments are already checked and vary alike."""
    factors = (scale, addend_scale, diagonal)
    coefficients = jnp.stack([jnp.asarray(x, jnp.float32) for x in factors])
    config = config or choose_config(lhs.shape, num_operands=1 if rhs is lhs else 2)

    lhs_BMK, rhs_BMK, addend_BMM = (
        None if x is None else x.reshape(-1, *x.shape[-2:]) for x in (lhs, rhs, addend)
    )
    out = kernel.product(lhs_BMK, rhs_BMK, addend_BMM, coefficients, config, interpret)
    return manual_axes.vary_like(lhs, out.reshape(*lhs.shape[:-1], lhs.shape[-2]))


def choose_config(shape: tuple[int, ...], num_operands: int) -> kernel.Config:
    """The configuration that takes the least time, judged by its rounds of items."""
    num_multiprocessors = _num_multiprocessors()

    def time(case):
        (tiles_per_item, cluster_size), round_times = case
        config = kernel.Config(tiles_per_item, cluster_size)
        num_items = math.prod(shape[:-2]) * len(kernel.item_table(shape[-2], config))
        num_rounds = -(-num_items // (num_multiprocessors // cluster_size))
        return num_rounds * round_times[shape[-1] > _SHORT]

    (tiles_per_item, cluster_size), _ = min(_ROUND_TIMES.items(), key=time)
    has_six = num_operands * shape[-1] <= _SIX_STAGES
    num_stages = 4 if tiles_per_item == 2 else 6 if has_six else 5
    num_clusters = num_multiprocessors // cluster_size
    return kernel.Config(tiles_per_item, cluster_size, num_stages, num_clusters)


def why_not(problem) -> str | None:
    """The reason why this kernel cannot run a problem, or None."""
    lhs = problem.lhs
    if elsewhere := hopper.why_not(problem.platform):
        return elsewhere
    if lhs.dtype not in _DTYPES:
        return f"it needs bfloat16 or float16, got {lhs.dtype}"
    if lhs.shape[-2] % kernel.COLS or lhs.shape[-1] % kernel.COLS:
        return f"it needs M and K multiples of {kernel.COLS}, got {lhs.shape[-2:]}"
    if lhs.shape[-2] < kernel.TILE:
        return f"it needs M of at least {kernel.TILE}, got {lhs.shape[-2]}"
    if manual_axes.is_partitioned_by_compiler():
        return "it needs shard_map on a mesh of several devices"
    if not problem.is_named and not _is_large(lhs.shape):
        return f"XLA is taken to be faster at {lhs.shape}"
    return None


def _is_large(shape: tuple[int, ...]) -> bool:
    num_tiles = math.prod(shape[:-2]) * tiles.count(-(-shape[-2] // kernel.TILE), 1)
    return shape[-2] >= MIN_SIDE and num_tiles >= MIN_TILES


def _num_multiprocessors() -> int:
    device = jax.devices()[0]
    return device.core_count if device.platform == "gpu" else 132
