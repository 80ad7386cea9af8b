"""Where each (token, choice) pair goes when pairs are sorted by expert: a stable counting sort.

    row[i] = pairs of smaller experts + pairs of i's expert in earlier chunks, and earlier in i's

This takes a few fused reductions and one scatter of M integers; a general sort takes many passes
over its keys. All of it is exact, so every platform finds the same order.

Letters: T tokens, K experts per token, E experts, M = T K pairs and rows, C chunks, R pairs of a
chunk.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import dtypes

# At 49152 pairs and 128 experts each of three reductions looks at 6 million comparisons.
CHUNK = 128


class Routes(NamedTuple):
    """The permutation that puts pairs t K + k in the order of experts, and the experts' loads."""

    pair_M: jax.Array  # the pair in each row
    row_TK: jax.Array  # the row of each pair
    group_sizes_E: jax.Array


def sort_by_expert(expert_ids_TK: jax.Array, num_experts: int) -> Routes:
    """Sorts pairs by expert, those of one expert by token; ids must lie in [0, num_experts].

    The id num_experts stands for an expert that is not here: its pairs come last, in no group.
    """
    num_pairs, num_groups = expert_ids_TK.size, num_experts + 1
    padding = (0, -num_pairs % CHUNK)
    padded = jnp.pad(expert_ids_TK.reshape(-1), padding, constant_values=num_experts)
    expert_CR = padded.reshape(-1, CHUNK)
    is_expert_CER = expert_CR[:, None, :] == jnp.arange(num_groups)[:, None]
    count_CE = is_expert_CER.sum(axis=2, dtype=jnp.int32)
    group_sizes_E = count_CE.sum(axis=0)

    start_E = jnp.where(_is_earlier(num_groups), group_sizes_E, 0).sum(axis=1)
    first_CE = start_E + _sum_earlier(count_CE)
    # A sum over experts instead of a lookup: TPUs gather single numbers slowly.
    first_CR = jnp.where(is_expert_CER, first_CE[:, :, None], 0).sum(axis=1)
    is_same_CRR = expert_CR[:, :, None] == expert_CR[:, None, :]
    rank_CR = (is_same_CRR & _is_earlier(CHUNK).T).sum(axis=1, dtype=jnp.int32)

    row_M = (first_CR + rank_CR).reshape(-1)[:num_pairs]
    pair_M = jnp.arange(num_pairs, dtype=jnp.int32)
    pair_M = jnp.zeros_like(row_M).at[row_M].set(pair_M, unique_indices=True)
    return Routes(pair_M, row_M.reshape(expert_ids_TK.shape), group_sizes_E[:num_experts])


def sum_of_rows(rows_MD, row_TK, weights_TK=None):
    """Sums each token's rows in float32, in the order of its choices: no atomic additions."""
    wide = dtypes.wide(rows_MD.dtype)
    total = jnp.zeros((), wide)
    for k in range(row_TK.shape[1]):  # K gathers, which a compiler can fuse with their sum
        rows_TD = rows_MD[row_TK[:, k]].astype(wide)
        total += rows_TD if weights_TK is None else weights_TK[:, k, None] * rows_TD
    return total.astype(rows_MD.dtype)


def _sum_earlier(count_CE):
    # A product, because compilers turn cumulative sums into many small steps. Counts up to 256
    # are exact in bfloat16, sums up to 2^24 in float32.
    is_earlier_CC = _is_earlier(count_CE.shape[0]).astype(jnp.bfloat16)
    sums = jnp.dot(is_earlier_CC, count_CE.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
    return sums.astype(jnp.int32)


def _is_earlier(num):
    """(i, j): whether j comes before i."""
    return jnp.arange(num)[:, None] > jnp.arange(num)
