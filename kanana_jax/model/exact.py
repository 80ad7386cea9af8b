"""A float32 product whose left side is bfloat16, at the speed of bfloat16 products.

A float32 number is the sum of three bfloat16 numbers, eight bits of its significand each. Products
of two bfloat16 numbers are exact in float32, so that three products give what one in float32 would,
up to the order of the sum. GPUs have units for bfloat16 products, and none for float32 products.
Letters: B batch, S sequence, D inputs, E outputs, F parts of all outputs side by side.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def matmul(x_BSD: Float[Array, "B S D"], w_DE: Float[Array, "D E"]) -> Float[Array, "B S E"]:
    """x W in float32, for bfloat16 x and float32 W; the gradient of x is bfloat16, rounded once."""
    out_BSF = _product("BSD,DF->BSF", x_BSD, jnp.concatenate(_parts(w_DE, 3), axis=-1))
    high, mid, low = jnp.split(out_BSF, 3, axis=-1)
    return high + (mid + low)


def _forward(x_BSD, w_DE):
    return matmul(x_BSD, w_DE), (x_BSD, w_DE)


def _backward(residuals, grad_BSE):
    x_BSD, w_DE = residuals
    high, mid, low = _parts(grad_BSE, 3)
    # One by one: compilers sum the parts before they sum over devices.
    of_high, of_mid, of_low = (_product("BSD,BSE->DE", x_BSD, part) for part in (high, mid, low))
    grad_DE = of_high + (of_mid + of_low)
    # Terms below 2**-16 of the sum are left out; bfloat16 keeps 2**-8 of it.
    w_high, w_mid = _parts(w_DE, 2)
    grad_BSF = jnp.concatenate([high, high, mid], axis=-1)
    grad_BSD = _product("BSF,DF->BSD", grad_BSF, jnp.concatenate([w_high, w_mid, w_high], axis=-1))
    return grad_BSD.astype(x_BSD.dtype), grad_DE


matmul.defvjp(_forward, _backward)


def _parts(x: Array, num_parts: int) -> list[Array]:
    """bfloat16 arrays that add up to float32 x, the largest first."""
    parts = []
    for _ in range(num_parts):
        # XLA may leave out a cast to bfloat16 and back, but not this.
        part = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
        parts.append(part.astype(jnp.bfloat16))
        x -= part
    return parts


def _product(subscripts: str, left: Array, right: Array) -> Array:
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)
