"""The Hopper grouped products: the tiles they visit, interpreted on the CPU, lowered for CUDA."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.grouped_matmul import cases, mosaic_gpu, reference
from pallas_kernels.grouped_matmul import mosaic_gpu_schedule as schedule

NUM_ROWS, WIDTH, OUT_WIDTH, NUM_GROUPS = 200, 128, 192, 4
SMALL = mosaic_gpu.Config(tile_n=128, num_stages=3, band=2)
SIZES = (
    pytest.param((70, 0, 13, 100), id="empty-and-odd-and-rows-beyond"),
    pytest.param((0, 0, 200, 0), id="one-group-with-everything"),
    pytest.param((1, 63, 65, 71), id="around-a-warpgroup"),
    pytest.param((0, 0, 0, 0), id="all-empty"),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=3, max_size=3).filter(lambda n: sum(n) <= 600))
def test_tiles_cover_every_output_once_and_stay_in_their_group(group_sizes):
    sizes = jnp.array(group_sizes, jnp.int32)
    table, num_tiles = jax.jit(schedule.of_matmul, static_argnums=(1, 2, 3, 4))(
        sizes, 600, 128, 3, 2
    )
    group_of_row = np.repeat(np.arange(4), [*group_sizes, 600 - sum(group_sizes)])
    seen = np.zeros((600, 3), int)
    for row, num_rows, group, col in np.asarray(table)[: int(num_tiles[0])]:
        assert 0 < num_rows <= 128
        assert (group_of_row[row : row + num_rows] == group).all()
        seen[row : row + num_rows, col] += 1
    np.testing.assert_array_equal(seen, 1)


def test_tiles_that_share_a_slice_of_a_matrix_are_neighbours():
    table, _ = schedule.of_matmul(jnp.array([512, 256], jnp.int32), 768, 128, 2, 2)
    order = [(0, 0), (128, 0), (0, 1), (128, 1), (256, 0), (384, 0), (256, 1), (384, 1)]
    order += [(512, 0), (640, 0), (512, 1), (640, 1)]
    np.testing.assert_array_equal(table[: len(order), [schedule.ROW, schedule.COL_TILE]], order)


def test_outer_takes_the_largest_group_first():
    rows = schedule.of_outer(jnp.array([5, 0, 9, 5], jnp.int32))
    np.testing.assert_array_equal(rows, [[2, 5, 14], [0, 0, 5], [3, 14, 19], [1, 5, 5]])


@functools.partial(jax.jit, static_argnames="transpose_rhs")
def interpreted(lhs, rhs, grad, group_sizes, *, transpose_rhs):
    """The product and the two that are its gradients."""
    kinds = dict(config=SMALL, interpret=True)
    out = mosaic_gpu.matmul(
        lhs, rhs, group_sizes, transpose_rhs=transpose_rhs, out_dtype=jnp.bfloat16, **kinds
    )
    return out, mosaic_gpu.outer(lhs, grad, group_sizes, out_dtype=jnp.float32, **kinds)


@pytest.mark.parametrize("transpose_rhs", (False, True))
@pytest.mark.parametrize("group_sizes", SIZES)
def test_interpreted_kernels_agree_and_have_no_races(group_sizes, transpose_rhs, capfd):
    case = cases.Case("small", NUM_ROWS, WIDTH, OUT_WIDTH, NUM_GROUPS, group_sizes)
    *arrays, sizes = cases.make_inputs(case)
    lhs, rhs, grad = (jnp.asarray(x, jnp.bfloat16) for x in arrays)
    rhs = rhs.swapaxes(1, 2) if transpose_rhs else rhs
    # What stands beyond the groups must not leak, not even as NaN * 0.
    lhs, grad = (x.at[sum(group_sizes) :].set(jnp.nan) for x in (lhs, grad))
    ours = interpreted(lhs, rhs, grad, sizes, transpose_rhs=transpose_rhs)
    kinds = dict(out_dtype=jnp.float32)
    lhs, grad = (jnp.nan_to_num(x) for x in (lhs, grad))
    want = (
        reference.matmul(lhs, rhs, sizes, transpose_rhs=transpose_rhs, **kinds),
        reference.outer(lhs, grad, sizes, **kinds),
    )
    # One rounding to bfloat16; float32 sums of at most 200 products of about 1.
    for x, y, relative in zip(ours, want, (2**-8, 0.0), strict=True):
        np.testing.assert_allclose(x.astype(jnp.float32), y, rtol=relative, atol=1e-4)
    assert "RACE DETECTED" not in capfd.readouterr().out
