"""Symmetric products through the public entry, and how kernels share out the triangle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.symmetric_matmul import cases, tiles
from pallas_kernels.symmetric_matmul.gpu import dispatch

by_case = pytest.mark.parametrize("case", cases.SMALL_CASES, ids=lambda case: case.name)


def exact(lhs, rhs, addend, factors):
    """The result in float64."""
    lhs, rhs, addend = (
        None if x is None else np.asarray(x, np.float64) for x in (lhs, rhs, addend)
    )
    rhs = lhs if rhs is None else rhs
    out = factors.get("scale", 1.0) * lhs @ rhs.swapaxes(-1, -2)
    if addend is not None:
        out = out + factors.get("addend_scale", 1.0) * addend
    return out + factors.get("diagonal", 0.0) * np.eye(lhs.shape[-2])


@by_case
@pytest.mark.parametrize("implementation", ("auto", "xla", "reference"))
@pytest.mark.parametrize("dtype", (jnp.float32, jnp.bfloat16, jnp.float16))
def test_product_agrees_with_float64(case, implementation, dtype):
    *arrays, factors = cases.make_inputs(case)
    lhs, rhs, addend = (None if x is None else jnp.asarray(x, dtype) for x in arrays)
    got = pallas_kernels.symmetric_matmul(
        lhs, rhs, addend, implementation=implementation, **factors
    )
    want = exact(lhs, rhs, addend, factors)
    assert got.dtype == dtype
    # The product and the sum with the other terms are rounded once each.
    atol = 2 * float(jnp.finfo(dtype).eps) * np.abs(want).max()
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=0, atol=atol)


@pytest.mark.parametrize("tiles_per_item", (1, 2))
@pytest.mark.parametrize("num_blocks", (1, 2, 3, 6, 7, 16, 33))
def test_items_cover_each_tile_of_the_triangle_once(num_blocks, tiles_per_item):
    table = tiles.items(num_blocks, tiles_per_item)
    covered = [tuple(sorted((row[0], col))) for row in table for col in row[1:] if col >= 0]
    assert len(covered) == len(set(covered)) == num_blocks * (num_blocks + 1) // 2
    assert len(table) == tiles.count(num_blocks, tiles_per_item)
    assert np.all(table[:, :2] >= 0)  # only a second tile may be missing


@pytest.mark.parametrize("num_blocks", (1, 2, 7, 16))
def test_clustered_items_cover_each_tile_of_the_triangle_once(num_blocks):
    covered = [
        (row + i, col)
        for row, *cols in tiles.clustered_items(num_blocks)
        for i in range(2)
        for col in cols
        if row + i <= col < num_blocks
    ]
    assert sorted(covered) == [(i, j) for i in range(num_blocks) for j in range(i, num_blocks)]


def test_leading_axes_are_a_batch():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    got = pallas_kernels.symmetric_matmul(x)
    np.testing.assert_allclose(got[1, 2], x[1, 2] @ x[1, 2].T, rtol=1e-5, atol=1e-6)


def test_choice_says_why_the_hopper_kernel_does_not_run_here():
    choice = pallas_kernels.symmetric_matmul_choice(jnp.zeros((2, 8, 8), jnp.bfloat16))
    assert choice.implementation == "xla"
    assert "Hopper" in choice.reasons["mosaic_gpu"]
    with pytest.raises(NotImplementedError, match="Hopper"):
        pallas_kernels.symmetric_matmul(jnp.zeros((8, 8)), implementation="mosaic_gpu")


def test_arguments_that_do_not_fit_are_refused():
    x = jnp.zeros((2, 8, 16))
    with pytest.raises(ValueError, match="one shape"):
        pallas_kernels.symmetric_matmul(x, x[:, :4])
    with pytest.raises(ValueError, match="addend"):
        pallas_kernels.symmetric_matmul(x, x, x)
    with pytest.raises(ValueError, match="one floating-point dtype"):
        pallas_kernels.symmetric_matmul(x, x.astype(jnp.bfloat16))


def test_items_are_chosen_by_how_many_rounds_they_take():
    # 264 pairs of tiles are two full rounds, 136 clustered items on 66 clusters a bit over two.
    assert dispatch.choose_config((1, 4096, 4096), 1)[:2] == (2, 1)
    assert dispatch.choose_config((16, 2048, 8192), 1)[:2] == (2, 2)
    # 18 pairs would leave most multiprocessors idle.
    assert dispatch.choose_config((1, 1024, 4096), 1)[:2] == (1, 1)


@pytest.mark.parametrize(
    "width, num_operands, num_stages", [(768, 1, 6), (768, 2, 5), (2048, 1, 5)]
)
def test_loads_run_less_far_ahead_where_a_tile_reads_more(width, num_operands, num_stages):
    config = dispatch.choose_config((1024, 768, width), num_operands)
    assert config.num_stages == num_stages
