"""The counting sort against NumPy's stable sort."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.moe_mlp import routing

EXPERTS = 7
sort = functools.partial(jax.jit, static_argnums=1)(routing.sort_by_expert)


def assert_sorted(ids, num_experts):
    pair, row, group_sizes = (np.asarray(x) for x in sort(ids, num_experts))
    np.testing.assert_array_equal(pair, np.argsort(ids.ravel(), kind="stable"))
    np.testing.assert_array_equal(pair[row.ravel()], np.arange(ids.size))
    np.testing.assert_array_equal(group_sizes, np.bincount(ids.ravel(), minlength=num_experts))
    assert row.shape == ids.shape and group_sizes.dtype == pair.dtype == row.dtype == np.int32


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(1, 1), (127, 1), (64, 2), (43, 3), (300, 2)]),
    num_used=st.integers(1, EXPERTS),
)
@pytest.mark.long
def test_order_is_numpys_stable_order_around_the_edges_of_chunks(seed, shape, num_used):
    ids = np.random.default_rng(seed).integers(0, num_used, shape, dtype=np.int32)
    assert_sorted(ids, EXPERTS)


@pytest.mark.parametrize("expert", (0, 4, EXPERTS - 1))
def test_one_expert_may_take_everything(expert):
    assert_sorted(np.full((300, 2), expert, np.int32), EXPERTS)


def test_kanana_2_size_sorts_exactly():
    assert_sorted(np.random.default_rng(0).integers(0, 128, (8192, 6), dtype=np.int32), 128)


def test_largest_counts_of_a_chunk_are_exact_in_bfloat16():
    counts = jnp.arange(routing.CHUNK + 1)
    np.testing.assert_array_equal(counts.astype(jnp.bfloat16).astype(jnp.int32), counts)
