"""The two steps of the layer that a fused kernel can replace: on Hopper one does for `up`.

Each is one product with elementwise work on its result: what a kernel would do before it stores.

    up              h = x w_gate_up^T                      a = swiglu(h), see `activation`
    down_backward   a' = dy w_down^T                       dweight = sum_F a' a
                    dh = (dswiglu/dh) (weight a')          weighted = weight a

Letters: M rows sorted by expert, E experts, F expert width, D hidden width. Columns 0 .. F-1 of
h (M, 2F) are the gate, the others the up projection.
"""

from functools import partial

import jax
import jax.numpy as jnp

from pallas_kernels import dtypes
from pallas_kernels.grouped_matmul import grouped_matmul, select
from pallas_kernels.grouped_matmul.gpu import dispatch as on_gpu
from pallas_kernels.grouped_matmul.quantized import (
    grouped_matmul_quantized,
    grouped_matmul_quantized_choice,
)
from pallas_kernels.moe_mlp import activation
from pallas_kernels.quantize import SQUARE_BLOCK, Quantized, Recipe, quantize


def up(x_MD, w_gate_up_E2FD, *, clamp, group_sizes, implementation):
    """Returns the pre-activation h (M, 2F) and the activation a (M, F), both in x's dtype."""
    w_E2FD = merge_gate_up(w_gate_up_E2FD)
    name = select(x_MD, w_E2FD, implementation)
    if name == "mosaic_gpu" and on_gpu.fits_up(w_gate_up_E2FD.shape[2]):
        return on_gpu.up(x_MD, w_gate_up_E2FD, group_sizes, clamp=clamp)
    h_M2F = grouped_matmul(
        x_MD,
        w_E2FD,
        group_sizes,
        transpose_rhs=True,
        implementation=implementation,
    )
    gate_MF, up_MF = split(h_M2F)
    return h_M2F, activation.swiglu(gate_MF, up_MF, clamp).astype(x_MD.dtype)


def up_quantized(
    x: Quantized,
    w: Quantized,
    recipe: Recipe,
    *,
    clamp,
    group_sizes,
    implementation,
    preferred_element_type,
) -> tuple[Quantized, Quantized]:
    """`up` of FP8 rows and matrices w (E, 2F, D): Q(h) and Q(a), both from preferred_element_type.

    Where Q has blocks of rows, a fused kernel makes both before it stores.
    """
    dtype, width = jnp.dtype(preferred_element_type), w.values.shape[1] // 2
    choice = grouped_matmul_quantized_choice(x, w, dtype).implementation
    is_named = implementation in ("auto", "mosaic_gpu")
    if is_named and choice == "mosaic_gpu" and width % SQUARE_BLOCK[1] == 0:
        group_sizes = jnp.asarray(group_sizes, jnp.int32)
        return on_gpu.up_quantized(x, w, group_sizes, dtype=dtype, scale=recipe.scale, clamp=clamp)
    h_M2F = grouped_matmul_quantized(
        x,
        w,
        group_sizes,
        transpose_rhs=True,
        preferred_element_type=dtype,
        implementation=implementation,
    )
    gate_MF, up_MF = split(h_M2F)
    act_MF = activation.swiglu(gate_MF, up_MF, clamp).astype(dtype)
    name = "auto" if is_named else "xla"
    to_rows = partial(quantize, block=recipe.rows, scale=recipe.scale, implementation=name)
    return to_rows(h_M2F), to_rows(act_MF)


def down_backward(dy_MD, w_down_EFD, h_M2F, weight_M, *, clamp, group_sizes, implementation):
    """Differentiates weight * (swiglu(h) w_down), given its gradient dy before the weight.

    Returns dh (M, 2F) and the weighted activation (M, F) in h's dtype, dweight (M,) in float32.
    """
    dact_MF = grouped_matmul(
        dy_MD, w_down_EFD, group_sizes, transpose_rhs=True, implementation=implementation
    )
    return activation_backward(dact_MF, h_M2F, weight_M, clamp)


def activation_backward(dact_MF, h_M2F, weight_M, clamp):
    """What follows the product in `down_backward`, and returns the same."""
    dact_MF = dact_MF.astype(dtypes.wide(dact_MF.dtype))
    raw_gate_MF, raw_up_MF = split(h_M2F)
    gate_MF, up_MF = activation.clip(raw_gate_MF, raw_up_MF, clamp)
    sigmoid_MF = jax.nn.sigmoid(gate_MF)
    silu_MF = gate_MF * sigmoid_MF
    act_MF = silu_MF * up_MF
    dweight_M = (dact_MF * act_MF).sum(axis=1)

    weight_M1 = weight_M[:, None]
    dact_MF *= weight_M1
    dgate_MF = dact_MF * up_MF * sigmoid_MF * (1 + gate_MF * (1 - sigmoid_MF))
    dgate_MF, dup_MF = activation.keep_unclipped(
        dgate_MF, dact_MF * silu_MF, raw_gate_MF, raw_up_MF, clamp
    )
    dtype = h_M2F.dtype
    dh_M2F = jnp.concatenate([dgate_MF.astype(dtype), dup_MF.astype(dtype)], axis=1)
    return dh_M2F, (weight_M1 * act_MF).astype(dtype), dweight_M


def merge_gate_up(w_E2FD):
    """(E, 2, F, D) to (E, 2F, D): one product for both projections."""
    return w_E2FD.reshape(w_E2FD.shape[0], -1, w_E2FD.shape[3])


def split(h_M2F):
    """The gate and up halves of h, float32 or wider."""
    # Halves before float32: compilers may keep a converted h, which is twice as large.
    wide = dtypes.wide(h_M2F.dtype)
    return tuple(half_MF.astype(wide) for half_MF in jnp.split(h_M2F, 2, axis=1))
