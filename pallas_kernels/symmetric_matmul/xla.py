"""Symmetric products by XLA, which computes both halves.

out = scale lhs rhs^T + addend_scale addend + diagonal I
"""

import jax.numpy as jnp

from pallas_kernels import dtypes


def matmul(lhs, rhs, addend, *, scale, addend_scale, diagonal):
    """The product; arguments are already checked.

    It is rounded to lhs's dtype before the other terms are added in float32: half the traffic of a
    float32 product, because XLA does not fuse the sum into the multiplication.
    """
    wide = dtypes.wide(lhs.dtype)
    # float32 products must not become bfloat16 or TF32 ones.
    precision = "highest" if lhs.dtype == wide else "default"
    product = jnp.matmul(lhs, rhs.mT, precision=precision)
    out = diagonal * jnp.eye(lhs.shape[-2], dtype=wide) + scale * product.astype(wide)
    if addend is not None:
        out += addend_scale * addend.astype(wide)
    return out.astype(lhs.dtype)
