"""A product of rows and one matrix in FP8, with the gradients of DeepSeek-V3's recipe.

    y = Q(x) Qw(w)        dx = Q(dy) Qw(w)^T        dw = Q(x)^T dy

Q is E4M3 in rows of 128, Qw in squares of 128, or what another recipe says. Kept between the
passes are Q(x) and w. Rounding has the derivative of the identity. Sums are float32.

Letters: K contracted width, N output width; ... rows.
"""

from functools import partial

import jax
import jax.numpy as jnp

from pallas_kernels import manual_axes
from pallas_kernels.quantize import Recipe, dequantize, quantize


def quantized_dot(x, w, recipe: Recipe, *, transpose_w: bool = False) -> jax.Array:
    """x (..., K) times w (K, N), or (N, K) with transpose_w, as (..., N) in their dtype.

    Raises ValueError where shapes or dtypes do not fit.
    """
    x, w = jnp.asarray(x), jnp.asarray(w)
    if w.ndim != 2 or x.ndim < 2 or x.shape[-1] != w.shape[1 if transpose_w else 0]:
        raise ValueError(
            f"expected x (..., K) and w {'(N, K)' if transpose_w else '(K, N)'}, got {x.shape} and "
            f"{w.shape}; the contracted width K must agree."
        )
    if x.dtype != w.dtype:
        raise ValueError(f"x and w need one dtype, got {x.dtype} and {w.dtype}; cast them first.")
    return _dot(recipe, transpose_w, *manual_axes.align(x, w))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _dot(recipe, transpose_w, x, w):
    return _forward(recipe, transpose_w, x, w)[0]


def _forward(recipe, transpose_w, x, w):
    kept_x = _quantize(x, recipe.rows, recipe)
    y = _multiply(recipe, kept_x, w, transpose_w)
    return y, (kept_x, w)


def _backward(recipe, transpose_w, residuals, dy):
    # Without a barrier XLA finds in the forward pass what is recomputed here, and keeps that.
    (kept_x, w), dy = jax.lax.optimization_barrier((residuals, dy))
    dx = _multiply(recipe, _quantize(dy, recipe.rows, recipe), w, not transpose_w)
    x = dequantize(kept_x, w.dtype)
    dw = jnp.einsum("...n,...k->nk" if transpose_w else "...n,...k->kn", dy, x)
    return dx, dw


_dot.defvjp(_forward, _backward)


def _multiply(recipe, rows, w, transpose_w):
    rhs = dequantize(_quantize(w, recipe.weights, recipe), w.dtype)
    spec = "...k,nk->...n" if transpose_w else "...k,kn->...n"
    return jnp.einsum(spec, dequantize(rows, w.dtype), rhs)


def _quantize(x, block, recipe):
    # Dense layers let XLA decide which device has which part of a product.
    return quantize(x, block, scale=recipe.scale, implementation="xla")
