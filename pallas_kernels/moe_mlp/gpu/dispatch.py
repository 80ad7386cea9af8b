"""Where the passes of a layer run on Hopper, and in what shapes they see its arrays.

Letters: T tokens, M rows sorted by expert, D hidden width, F expert width, J = F / 128.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels import hopper
from pallas_kernels.moe_mlp.gpu import activation, gather
from pallas_kernels.quantize import ROW_BLOCK, Quantized, Recipe
from pallas_kernels.quantize.formats import SIDE

_DTYPES = (jnp.bfloat16, jnp.float16)


def fits_gather(x_TD, platform: str) -> bool:
    """Whether `take_rows` can move rows of x."""
    row_bytes = x_TD.shape[1] * x_TD.dtype.itemsize
    is_even = x_TD.shape[1] % gather.LANE == 0 and row_bytes <= gather.LARGEST_ROW_BYTES
    return hopper.why_not(platform) is None and is_even


def take_rows(x_TD, index_M, *, interpret: bool = False) -> jax.Array:
    """x[index], where `fits_gather`."""
    num_rows = index_M.shape[0]
    step = gather.rows_per_block(x_TD.shape[1] * x_TD.dtype.itemsize)
    index_M = hopper.pad_rows(index_M.astype(jnp.int32), step)
    run = functools.partial(gather.take_rows, interpret=interpret)
    return hopper.call(run, x_TD, index_M)[:num_rows]


def fits_activation(width: int, dtype, recipe: Recipe, platform: str) -> bool:
    """Whether the passes of SwiGLU take expert width F, between products of this dtype."""
    is_even = width % SIDE == 0 and recipe.rows == ROW_BLOCK and jnp.dtype(dtype) in _DTYPES
    return hopper.why_not(platform) is None and is_even


def activate(h_M2F, recipe: Recipe, *, clamp: float | None, interpret: bool = False):
    """Q(h) and Q(swiglu(h)) of 16-bit h, where `fits_activation`."""
    num_rows = h_M2F.shape[0]
    run = functools.partial(
        activation.forward, scale=recipe.scale, clamp=clamp, interpret=interpret
    )
    h, act, scales_3JM = hopper.call(run, hopper.pad_rows(h_M2F, activation.ROWS))
    scales_M3J = scales_3JM.reshape(-1, h.shape[0]).T[:num_rows]
    width = scales_3JM.shape[1]
    return (
        Quantized(h[:num_rows], scales_M3J[:, : 2 * width], ROW_BLOCK),
        Quantized(act[:num_rows], scales_M3J[:, 2 * width :], ROW_BLOCK),
    )


def activate_backward(
    dact_MF, h: Quantized, weight_M, recipe: Recipe, *, clamp: float | None, interpret: bool = False
):
    """What `stages.activation_backward_quantized` returns, where `fits_activation`."""
    num_rows = dact_MF.shape[0]
    run = functools.partial(
        activation.backward, scale=recipe.scale, clamp=clamp, interpret=interpret
    )
    arrays = (hopper.pad_rows(x, activation.ROWS) for x in (dact_MF, h.values, h.scales, weight_M))
    dact, values, scales, weight = arrays
    scales_2JM = scales.T.reshape(2, -1, scales.shape[0])
    outs = hopper.call(run, dact, values, scales_2JM, weight)
    dh_M2F, dh_values, weighted_MF, dh_scales, dweight_JM = outs
    quantized = Quantized(
        dh_values[:num_rows], dh_scales.reshape(-1, dh_scales.shape[2]).T[:num_rows], ROW_BLOCK
    )
    dweight_M = dweight_JM.sum(axis=0)[:num_rows]
    return dh_M2F[:num_rows], quantized, weighted_MF[:num_rows], dweight_M
