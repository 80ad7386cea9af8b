"""Symmetric products in plain float32, the definition the other implementations are tested against.

out = scale lhs rhs^T + addend_scale addend + diagonal I
"""

import jax.numpy as jnp

from pallas_kernels import dtypes


def matmul(lhs, rhs, addend, *, scale, addend_scale, diagonal):
    """The product, rounded once; arguments are already checked."""
    wide = dtypes.wide(lhs.dtype)
    product = jnp.matmul(lhs.astype(wide), rhs.astype(wide).mT, precision="highest")
    out = diagonal * jnp.eye(lhs.shape[-2], dtype=wide) + scale * product
    if addend is not None:
        out += addend_scale * addend.astype(wide)
    return out.astype(lhs.dtype)
