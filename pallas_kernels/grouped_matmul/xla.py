"""Grouped products in XLA with work proportional to rows, not rows times groups.

    out[m] = lhs[m] @ rhs[g(m)]          outer[g] = sum over rows m of group g of lhs[m] grad[m]^T

Rows are cut into blocks that never span two groups: at most M / block + G of them, whatever the
group sizes, so shapes stay static. Each block then meets its group's matrix in a batched product.
TPUs have a native product for this, jax.lax.ragged_dot, which elsewhere costs M G K N.

Letters: M rows, G groups, K contracted width, N output width, C blocks, R rows of a block.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import dtypes, manual_axes

BLOCK_ROWS = 128
MIN_BLOCK_ROWS = 8  # when groups are small, as in decoding
# Matrices gathered for the blocks of one step, in bytes; more blocks than fit take more steps.
STEP_BYTES = 64 * 2**20


class _Blocks(NamedTuple):
    group_C: jax.Array
    row_CR: jax.Array  # row of lhs in each slot of each block
    is_row_CR: jax.Array  # slots past the end of a group hold no row
    slot_M: jax.Array  # where each row went, in [0, C R)
    is_grouped_M: jax.Array  # rows beyond the last group belong to none


def matmul(lhs_MK, rhs, group_sizes_G, *, transpose_rhs: bool, out_dtype):
    """Rows times their group's matrix; arguments are already checked."""
    # ragged_dot cannot be batched over one side only.
    native = jax.custom_batching.sequential_vmap(
        functools.partial(_native_matmul, transpose_rhs=transpose_rhs, out_dtype=out_dtype)
    )
    blocked = functools.partial(_blocked_matmul, transpose_rhs=transpose_rhs, out_dtype=out_dtype)
    return _by_platform(native, blocked, lhs_MK, rhs, group_sizes_G)


def outer(lhs_MK, grad_MN, group_sizes_G, *, out_dtype):
    """Sum of outer products within each group; arguments are already checked."""
    native = jax.custom_batching.sequential_vmap(
        functools.partial(_native_outer, out_dtype=out_dtype)
    )
    blocked = functools.partial(_blocked_outer, out_dtype=out_dtype)
    return _by_platform(native, blocked, lhs_MK, grad_MN, group_sizes_G)


def _by_platform(native, blocked, lhs, rhs, group_sizes):
    def on_cpu(lhs, rhs, group_sizes):
        # CPUs multiply 16-bit floats by converting them; convert each once.
        wide = dtypes.wide(lhs.dtype)
        return blocked(lhs.astype(wide), rhs.astype(wide), group_sizes)

    return jax.lax.platform_dependent(
        lhs, rhs, group_sizes, cpu=on_cpu, tpu=native, default=blocked
    )


def _blocked_matmul(lhs_MK, rhs, group_sizes_G, *, transpose_rhs, out_dtype):
    blocks = _cut(group_sizes_G, lhs_MK.shape[0], _step_blocks(rhs))
    spec = "CRK,CNK->CRN" if transpose_rhs else "CRK,CKN->CRN"

    def step(block):
        group_C, row_CR = block
        return _dot(spec, lhs_MK[row_CR], rhs[group_C], out_dtype)

    out = jax.lax.map(step, _split_steps((blocks.group_C, blocks.row_CR), _step_blocks(rhs)))
    out_MN = out.reshape(-1, out.shape[-1])[blocks.slot_M]
    return jnp.where(blocks.is_grouped_M[:, None], out_MN, 0)


def _blocked_outer(lhs_MK, grad_MN, group_sizes_G, *, out_dtype):
    shape = (group_sizes_G.shape[0], lhs_MK.shape[1], grad_MN.shape[1])
    wide = dtypes.wide(lhs_MK.dtype)
    sums_GKN, lhs_MK, grad_MN, group_sizes_G = manual_axes.align(
        jnp.zeros(shape, wide), lhs_MK, grad_MN, group_sizes_G
    )
    step_blocks = _step_blocks(sums_GKN)
    blocks = _cut(group_sizes_G, lhs_MK.shape[0], step_blocks)

    def step(sums_GKN, block):
        group_C, row_CR, is_row_CR = block
        lhs_CRK = jnp.where(is_row_CR[..., None], lhs_MK[row_CR], 0)
        grad_CRN = jnp.where(is_row_CR[..., None], grad_MN[row_CR], 0)
        product = _dot("CRK,CRN->CKN", lhs_CRK, grad_CRN, wide)
        return sums_GKN.at[group_C].add(product, indices_are_sorted=True), None

    steps = _split_steps((blocks.group_C, blocks.row_CR, blocks.is_row_CR), step_blocks)
    return jax.lax.scan(step, sums_GKN, steps)[0].astype(out_dtype)


def _native_matmul(lhs_MK, rhs, group_sizes_G, *, transpose_rhs, out_dtype):
    rhs_GKN = jnp.swapaxes(rhs, 1, 2) if transpose_rhs else rhs
    out_MN = jax.lax.ragged_dot(
        lhs_MK,
        rhs_GKN,
        group_sizes_G,
        precision=_precision(lhs_MK),
        preferred_element_type=out_dtype,
    )
    is_grouped_M = jnp.arange(lhs_MK.shape[0]) < group_sizes_G.sum()
    return jnp.where(is_grouped_M[:, None], out_MN, 0)


def _native_outer(lhs_MK, grad_MN, group_sizes_G, *, out_dtype):
    contract_rows = jax.lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((0,), (0,)), ((), ())),
        lhs_ragged_dimensions=[0],
        rhs_group_dimensions=[],
    )
    return jax.lax.ragged_dot_general(
        lhs_MK,
        grad_MN,
        group_sizes_G,
        contract_rows,
        precision=_precision(lhs_MK),
        preferred_element_type=out_dtype,
    )


def _block_rows(num_rows, num_groups):
    """The smallest power of two that reaches a group's mean size, kept between the bounds."""
    mean = -(-num_rows // num_groups)
    return min(max(1 << (mean - 1).bit_length(), MIN_BLOCK_ROWS), BLOCK_ROWS)


def _cut(group_sizes_G, num_rows, step_blocks):
    block_rows = _block_rows(num_rows, group_sizes_G.shape[0])
    num_blocks = -(-num_rows // block_rows) + group_sizes_G.shape[0]
    step_blocks = min(step_blocks, num_blocks)
    num_blocks = -(-num_blocks // step_blocks) * step_blocks
    blocks_G = -(-group_sizes_G // block_rows)
    end_G, end_block_G = jnp.cumsum(group_sizes_G), jnp.cumsum(blocks_G)
    start_G, start_block_G = end_G - group_sizes_G, end_block_G - blocks_G

    block_C = jnp.arange(num_blocks)
    group_C = _group_of(block_C, end_block_G)
    start_C = start_G[group_C] + (block_C - start_block_G[group_C]) * block_rows
    row_CR = start_C[:, None] + jnp.arange(block_rows)
    is_row_CR = row_CR < end_G[group_C][:, None]
    row_CR = jnp.clip(row_CR, 0, num_rows - 1)

    row_M = jnp.arange(num_rows)
    group_M = _group_of(row_M, end_G)
    slot_M = start_block_G[group_M] * block_rows + row_M - start_G[group_M]
    return _Blocks(group_C, row_CR, is_row_CR, slot_M, row_M < end_G[-1])


def _group_of(index, end_G):
    group = jnp.searchsorted(end_G, index, side="right").astype(jnp.int32)
    return jnp.minimum(group, end_G.shape[0] - 1)


def _step_blocks(matrices_GKN):
    bytes_each = matrices_GKN[0].size * matrices_GKN.dtype.itemsize
    return max(1, STEP_BYTES // bytes_each)


def _split_steps(blocks, step_blocks):
    num_blocks = blocks[0].shape[0]
    step_blocks = min(step_blocks, num_blocks)
    return jax.tree.map(lambda x: x.reshape(-1, step_blocks, *x.shape[1:]), blocks)


def _dot(spec, lhs, rhs, out_dtype):
    wide = dtypes.wide(lhs.dtype)
    out = jnp.einsum(spec, lhs, rhs, precision=_precision(lhs), preferred_element_type=wide)
    return out.astype(out_dtype)


def _precision(x):
    return jax.lax.Precision.HIGHEST if x.dtype == dtypes.wide(x.dtype) else None
