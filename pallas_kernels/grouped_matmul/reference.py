"""Grouped products in float32 or wider, the definition that other implementations are held to.

    out[m] = lhs[m] @ rhs[g(m)]          outer[g] = sum over rows m of group g of lhs[m] grad[m]^T

Letters: M rows, G groups, K contracted width, N output width.
"""

import jax
import jax.numpy as jnp

from pallas_kernels import dtypes, manual_axes


def matmul(lhs_MK, rhs, group_sizes_G, *, transpose_rhs: bool, out_dtype):
    """Rows times their group's matrix; arguments are already checked."""
    one_hot_GM = _one_hot(group_sizes_G, lhs_MK.shape[0])
    wide = dtypes.wide(lhs_MK.dtype)
    spec = "MK,NK->MN" if transpose_rhs else "MK,KN->MN"

    def add_group(out_MN, group):
        rhs_g, is_in_M = group
        product = jnp.einsum(spec, lhs_MK.astype(wide), rhs_g, precision="highest")
        return out_MN + jnp.where(is_in_M[:, None], product, 0.0), None

    out_dim = rhs.shape[1 if transpose_rhs else 2]
    zeros = jnp.zeros((lhs_MK.shape[0], out_dim), wide)
    zeros, one_hot_GM, rhs = manual_axes.align(zeros, one_hot_GM, rhs)
    out_MN, _ = jax.lax.scan(add_group, zeros, (rhs.astype(wide), one_hot_GM))
    return out_MN.astype(out_dtype)


def outer(lhs_MK, grad_MN, group_sizes_G, *, out_dtype):
    """Sum of outer products within each group; arguments are already checked."""
    one_hot_GM = _one_hot(group_sizes_G, lhs_MK.shape[0])

    def of_group(is_in_M):
        lhs, grad = (
            jnp.where(is_in_M[:, None], x.astype(dtypes.wide(x.dtype)), 0.0)
            for x in (lhs_MK, grad_MN)
        )
        return jnp.einsum("MK,MN->KN", lhs, grad, precision="highest").astype(out_dtype)

    return jax.lax.map(of_group, one_hot_GM)


def _one_hot(group_sizes_G, num_rows):
    end_G1 = jnp.cumsum(group_sizes_G)[:, None]
    row_M = jnp.arange(num_rows)
    return (row_M >= end_G1 - group_sizes_G[:, None]) & (row_M < end_G1)
