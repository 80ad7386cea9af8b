"""Leaves become stacks of matrices and come back unchanged."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanana_jax import optim


@st.composite
def leaf_and_spec(draw):
    ndim = draw(st.integers(2, 5))
    shape = tuple(draw(st.integers(1, 4)) for _ in range(ndim))
    axes = draw(st.permutations(range(ndim)))
    num_rows = draw(st.integers(1, ndim - 1))
    num_cols = draw(st.integers(1, ndim - num_rows))
    split_axis = draw(st.one_of(st.none(), st.integers(0, ndim - 1)))
    sizes = ()
    if split_axis is not None:
        first = draw(st.integers(0, shape[split_axis]))
        sizes = (first, shape[split_axis] - first)
    spec = optim.MatrixSpec(
        rows=axes[:num_rows],
        cols=axes[num_rows : num_rows + num_cols],
        batch=axes[num_rows + num_cols :],
        split_axis=split_axis,
        split_sizes=sizes,
    )
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape), spec


@settings(max_examples=25, deadline=None)
@given(leaf_and_spec())
def test_merge_undoes_split(example):
    leaf, spec = example
    stacks = optim.split_matrices(jnp.asarray(leaf), spec)
    np.testing.assert_array_equal(optim.merge_matrices(stacks, spec, leaf.shape), leaf)
    for stack, fan in zip(stacks, optim.fans(leaf.shape, spec), strict=True):
        assert sorted(stack.shape[-2:]) == sorted(fan)


def test_fused_heads_and_parts_become_matrices_of_their_own():
    # Megatron's kv up-projection: (C, heads * (N + U)), K and V columns of each head side by side.
    num_heads, n, u, rank = 3, 2, 4, 5
    leaf = np.arange(rank * num_heads * (n + u)).reshape(rank, num_heads * (n + u))
    spec = optim.MatrixSpec(
        view=(rank, num_heads, n + u),
        batch=(1,),
        rows=(0,),
        cols=(2,),
        split_axis=2,
        split_sizes=(n, u),
    )
    keys, values = optim.split_matrices(jnp.asarray(leaf), spec)
    for head in range(num_heads):
        start = head * (n + u)
        np.testing.assert_array_equal(keys[head], leaf[:, start : start + n])
        np.testing.assert_array_equal(values[head], leaf[:, start + n : start + n + u])
    assert optim.fans(leaf.shape, spec) == ((rank, n), (rank, u))


def test_gate_and_up_stored_with_inputs_last_need_no_transposition():
    spec = optim.MatrixSpec(batch=(0, 1, 2), rows=(4,), cols=(3,))
    leaf = np.arange(2 * 3 * 2 * 4 * 5).reshape(2, 3, 2, 4, 5)
    (stack,) = optim.split_matrices(jnp.asarray(leaf), spec)
    np.testing.assert_array_equal(stack, leaf)
    assert optim.fans(leaf.shape, spec) == ((5, 4),)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": (0,), "cols": (0,)}, "every axis once"),
        ({"rows": (0, 1), "cols": ()}, "every axis once"),
        ({"rows": (0,), "cols": (2,)}, "every axis once"),
        ({"split_axis": 1}, "go together"),
    ],
)
def test_contradictory_specs_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        optim.MatrixSpec(**fields)


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ((2, 3, 4), {}, "names 2 axes"),
        ((2, 3), {"split_axis": 1, "split_sizes": (1, 1)}, "add up"),
        ((2, 3), {"view": (5, -1)}, "cannot hold"),
    ],
)
def test_specs_that_do_not_fit_the_leaf_raise(shape, fields, message):
    with pytest.raises(ValueError, match=message):
        optim.split_matrices(jnp.zeros(shape), optim.MatrixSpec(**fields))
