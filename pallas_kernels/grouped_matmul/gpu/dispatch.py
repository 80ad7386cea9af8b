"""Grouped products for Hopper GPUs in Pallas Mosaic GPU: TMA, wgmma, persistent blocks.

    out[m] = lhs[m] @ rhs[g(m)]          outer[g] = sum over rows m of group g of lhs[m] grad[m]^T

Letters: M rows, G groups, K contracted width, N output width.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp

from pallas_kernels import hopper
from pallas_kernels.grouped_matmul.gpu import block_scaled, ring, swiglu
from pallas_kernels.grouped_matmul.gpu import matmul as matmul_kernel
from pallas_kernels.grouped_matmul.gpu import outer as outer_kernel
from pallas_kernels.quantize import ROW_BLOCK, SQUARE_BLOCK, Quantized, transpose

_DTYPES = (jnp.bfloat16, jnp.float16)
_ROWS = 8  # TMA with a swizzle needs whole groups of this many rows


class Config(NamedTuple):
    """What `tune` tunes; all fit the shared memory of any Hopper GPU."""

    matmul: matmul_kernel.Config = matmul_kernel.Config()
    outer: outer_kernel.Config = outer_kernel.Config()


# Fewer rows per slice: at K = 7168 sixteen tiles of rows are 29 MB, too much for L2.
_LOW = matmul_kernel.Config(band=8)
# (K, N, G) -> the fastest of the configurations that were timed on an H100, bfloat16, for the
# product of width K to N and for the outer product of those widths.
TUNED = {
    (768, 2048, 128): Config(_LOW),
    (7168, 4096, 32): Config(_LOW),
    (4096, 7168, 32): Config(_LOW),
}
# The same for the FP8 tiles, which were timed on an H200.
_LOW_TILE = block_scaled.Config(band=8)
TILES = {(768, 2048, 128): _LOW_TILE, (7168, 4096, 32): _LOW_TILE}


def matmul(
    lhs_MK,
    rhs,
    group_sizes_G,
    *,
    transpose_rhs: bool,
    out_dtype,
    config: Config | None = None,
    interpret: bool = False,
):
    """Rows times their group's matrix; arguments are already checked."""
    out_width = rhs.shape[1 if transpose_rhs else 2]
    config = config or choose_config(lhs_MK.shape[1], out_width, rhs.shape[0])
    kernel = functools.partial(
        matmul_kernel.matmul,
        transpose_rhs=transpose_rhs,
        out_dtype=out_dtype,
        config=config.matmul,
        interpret=interpret,
    )
    return hopper.call(kernel, hopper.pad_rows(lhs_MK, _ROWS), rhs, group_sizes_G)[
        : lhs_MK.shape[0]
    ]


def outer(
    lhs_MK,
    grad_MN,
    group_sizes_G,
    *,
    out_dtype,
    config: Config | None = None,
    interpret: bool = False,
):
    """Sum of outer products within each group; arguments are already checked."""
    config = config or choose_config(lhs_MK.shape[1], grad_MN.shape[1], group_sizes_G.shape[0])
    kernel = functools.partial(
        outer_kernel.outer,
        out_dtype=out_dtype,
        config=config.outer,
        interpret=interpret,
    )
    return hopper.call(
        kernel, hopper.pad_rows(lhs_MK, _ROWS), hopper.pad_rows(grad_MN, _ROWS), group_sizes_G
    )


def up(
    x_MD,
    w_gate_up_E2FD,
    group_sizes_E,
    *,
    clamp: float | None = None,
    config: Config | None = None,
    interpret: bool = False,
):
    """Pre-activation h (M, 2F) and silu(gate) * up (M, F) of experts, where `fits_up(F)`."""
    num_experts, _, width, hidden = w_gate_up_E2FD.shape
    config = config or choose_config(hidden, 2 * width, num_experts)
    kernel = functools.partial(swiglu.up, clamp=clamp, config=config.matmul, interpret=interpret)
    outs = hopper.call(kernel, hopper.pad_rows(x_MD, _ROWS), w_gate_up_E2FD, group_sizes_E)
    return tuple(out[: x_MD.shape[0]] for out in outs)


def fits_up(width: int) -> bool:
    """Whether `up` takes experts of this width: its tiles hold whole columns of both halves."""
    return width % (matmul_kernel.Config().tile_n // 2) == 0


def matmul_quantized(
    lhs: Quantized,
    rhs: Quantized,
    group_sizes_G,
    *,
    transpose_rhs: bool,
    out_dtype,
    config: block_scaled.Config | None = None,
    interpret: bool = False,
):
    """Rows of FP8 times their group's matrix of FP8; `why_not_quantized` has found no reason."""
    rhs = rhs if transpose_rhs else transpose(rhs)  # wgmma reads FP8 along K only
    kernel = functools.partial(
        block_scaled.matmul,
        out_dtype=out_dtype,
        config=config or choose_tile(*rhs.values.shape),
        interpret=interpret,
    )
    arrays = hopper.pad_rows(lhs.values, _ROWS), lhs.scales, rhs.values, rhs.scales, group_sizes_G
    return hopper.call(kernel, *arrays)[: lhs.values.shape[0]]


def why_not_quantized(lhs: Quantized, rhs: Quantized, platform: str) -> str | None:
    """The reason why `matmul_quantized` cannot run, or None."""
    if elsewhere := hopper.why_not(platform):
        return elsewhere
    if (lhs.block, rhs.block) != (ROW_BLOCK, SQUARE_BLOCK):
        return f"it needs rows of 128 and squares of 128, got {lhs.block} and {rhs.block}"
    if any(width % block_scaled.STEP for width in rhs.values.shape[1:]):
        return f"it needs widths that are multiples of {block_scaled.STEP}, got {rhs.values.shape}"
    return None


def choose_tile(num_groups: int, out_width: int, width: int) -> block_scaled.Config:
    """The FP8 tile that was fastest at this shape, else the default, which fits every shape."""
    return TILES.get((width, out_width, num_groups), block_scaled.Config())


def choose_config(width: int, out_width: int, num_groups: int) -> Config:
    """The tuned configuration of this shape, else the default."""
    return TUNED.get((width, out_width, num_groups), Config())


def why_not(problem) -> str | None:
    """The reason why these kernels cannot run a problem, or None."""
    if elsewhere := hopper.why_not(problem.platform):
        return elsewhere
    if problem.lhs.dtype not in _DTYPES:
        return f"it needs bfloat16 or float16, got {problem.lhs.dtype}"
    widths = (problem.lhs.shape[1], *problem.rhs.shape[1:])
    if any(width % ring.STEP for width in widths):
        return f"it needs widths that are multiples of {ring.STEP}, got {widths}"
    return None
