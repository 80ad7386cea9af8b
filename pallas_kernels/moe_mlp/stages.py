"""The steps of the layer that kernels can replace: on Hopper those of `gpu`, and one for `up`.

    up              h = x w_gate_up^T                      a = swiglu(h), see `activation`
    down_backward   a' = dy w_down^T                       dweight = sum_F a' a
                    dh = (dswiglu/dh) (weight a')          weighted = weight a

Both are one product with elementwise work on its result. Where they can run, one kernel
finds the FP8 form of their results in one pass, and another gathers rows.

Letters: T tokens, M rows sorted by expert, E experts, F expert width, D hidden width. Columns
0 .. F-1 of h (M, 2F) are the gate, the others the up projection.
"""

import jax
import jax.numpy as jnp

from pallas_kernels import dtypes
from pallas_kernels.grouped_matmul import grouped_matmul, select
from pallas_kernels.grouped_matmul.gpu import dispatch as grouped_on_gpu
from pallas_kernels.grouped_matmul.quantized import grouped_matmul_quantized
from pallas_kernels.moe_mlp import activation
from pallas_kernels.moe_mlp.gpu import dispatch as on_gpu
from pallas_kernels.moe_mlp.matrices import quantizer
from pallas_kernels.quantize import Quantized, Recipe, dequantize


def up(x_MD, w_gate_up_E2FD, *, clamp, group_sizes, implementation):
    """Returns the pre-activation h (M, 2F) and the activation a (M, F), both in x's dtype."""
    w_E2FD = merge_gate_up(w_gate_up_E2FD)
    name = select(x_MD, w_E2FD, implementation)
    if name == "mosaic_gpu" and grouped_on_gpu.fits_up(w_gate_up_E2FD.shape[2]):
        return grouped_on_gpu.up(x_MD, w_gate_up_E2FD, group_sizes, clamp=clamp)
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
    """`up` of FP8 rows and matrices w (E, 2F, D): Q(h) and Q(a), from preferred_element_type."""
    h_M2F = grouped_matmul_quantized(
        x,
        w,
        group_sizes,
        transpose_rhs=True,
        preferred_element_type=preferred_element_type,
        implementation=implementation,
    )
    if _has_passes(h_M2F.shape[1] // 2, h_M2F.dtype, recipe, implementation):
        return on_gpu.activate(h_M2F, recipe, clamp=clamp)
    gate_MF, up_MF = split(h_M2F)
    act_MF = activation.swiglu(gate_MF, up_MF, clamp).astype(h_M2F.dtype)
    to_rows = quantizer(recipe.rows, recipe, implementation)
    return to_rows(h_M2F), to_rows(act_MF)


def take_rows(x_TD, index_M, implementation) -> jax.Array:
    """x[index]."""
    if _is_kernel(implementation) and on_gpu.fits_gather(x_TD, jax.default_backend()):
        return on_gpu.take_rows(x_TD, index_M)
    return x_TD[index_M]


def down_backward(dy_MD, w_down_EFD, h_M2F, weight_M, *, clamp, group_sizes, implementation):
    """Differentiates weight * (swiglu(h) w_down), given its gradient dy before the weight.

    Returns dh (M, 2F) and the weighted activation (M, F) in h's dtype, dweight (M,) in float32.
    """
    dact_MF = grouped_matmul(
        dy_MD, w_down_EFD, group_sizes, transpose_rhs=True, implementation=implementation
    )
    return activation_backward(dact_MF, h_M2F, weight_M, clamp)


def activation_backward(dact_MF, h_M2F, weight_M, clamp):
    """The part of `down_backward` after the product; returns the same."""
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


def activation_backward_quantized(
    dact_MF, h: Quantized, weight_M, recipe: Recipe, *, clamp, implementation
):
    """`activation_backward` of an h that was kept as FP8: dh, Q(dh), weighted and dweight."""
    if _has_passes(dact_MF.shape[1], dact_MF.dtype, recipe, implementation):
        return on_gpu.activate_backward(dact_MF, h, weight_M, recipe, clamp=clamp)
    h_M2F = dequantize(h, dact_MF.dtype)
    dh_M2F, weighted_MF, dweight_M = activation_backward(dact_MF, h_M2F, weight_M, clamp)
    to_rows = quantizer(recipe.rows, recipe, implementation)
    return dh_M2F, to_rows(dh_M2F), weighted_MF, dweight_M


def merge_gate_up(w_E2FD):
    """(E, 2, F, D) to (E, 2F, D): one product for both projections."""
    return w_E2FD.reshape(w_E2FD.shape[0], -1, w_E2FD.shape[3])


def split(h_M2F):
    """The gate and up halves of h, float32 or wider."""
    # Split before the cast to float32: compilers may keep a converted h, which is twice as large.
    wide = dtypes.wide(h_M2F.dtype)
    return tuple(half_MF.astype(wide) for half_MF in jnp.split(h_M2F, 2, axis=1))


def _is_kernel(implementation) -> bool:
    return implementation in ("auto", "mosaic_gpu")


def _has_passes(width: int, dtype, recipe: Recipe, implementation) -> bool:
    fits = on_gpu.fits_activation(width, dtype, recipe, jax.default_backend())
    return _is_kernel(implementation) and fits
