"""The Hopper grouped products: the tiles they visit, interpreted on the CPU, lowered for CUDA."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from pallas_kernels.grouped_matmul import cases, reference
from pallas_kernels.grouped_matmul.gpu import dispatch, matmul, outer, schedule, tune

NUM_ROWS, WIDTH, OUT_WIDTH, NUM_GROUPS = 200, 128, 192, 4
SMALL = dispatch.Config(matmul.Config(128, 3, band=2), outer.Config(128, 3))
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
    ours = functools.partial(dispatch.matmul, config=SMALL, interpret=True)
    sums = functools.partial(dispatch.outer, config=SMALL, interpret=True)
    out = ours(lhs, rhs, group_sizes, transpose_rhs=transpose_rhs, out_dtype=jnp.bfloat16)
    return out, sums(lhs, grad, group_sizes, out_dtype=jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("transpose_rhs", (pytest.param(False, marks=pytest.mark.long), True))
@pytest.mark.parametrize("group_sizes", SIZES)
def test_interpreted_kernels_agree_and_have_no_races(group_sizes, transpose_rhs, capfd):
    case = cases.Case("small", NUM_ROWS, WIDTH, OUT_WIDTH, NUM_GROUPS, group_sizes)
    *arrays, sizes = cases.make_inputs(case)
    lhs, rhs, grad = (jnp.asarray(x, jnp.bfloat16) for x in arrays)
    rhs = rhs.swapaxes(1, 2) if transpose_rhs else rhs
    # Values beyond the groups must not leak, not even as NaN * 0.
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


@pytest.mark.parametrize("clamp", [None, 0.5])
@pytest.mark.parametrize("group_sizes", (SIZES[0],))
@pytest.mark.long
def test_interpreted_activation_is_that_of_the_rounded_product(group_sizes, clamp, capfd):
    case = cases.Case("small", NUM_ROWS, WIDTH, 512, NUM_GROUPS, group_sizes)
    x, w, _, sizes = cases.make_inputs(case)
    x, w = jnp.asarray(x, jnp.bfloat16), jnp.asarray(w.swapaxes(1, 2), jnp.bfloat16)
    x = x.at[sum(group_sizes) :].set(jnp.nan)
    w_E2FD = w.reshape(NUM_GROUPS, 2, 256, WIDTH)
    config = dispatch.Config(matmul.Config(256, 3, band=2))
    fused = functools.partial(dispatch.up, clamp=clamp, config=config, interpret=True)
    h, act = jax.jit(fused)(x, w_E2FD, sizes)
    x = jnp.nan_to_num(x)
    want = reference.matmul(x, w, sizes, transpose_rhs=True, out_dtype=jnp.float32)
    np.testing.assert_allclose(h.astype(jnp.float32), want, rtol=2**-8, atol=1e-4)
    gate, up = jnp.split(h.astype(jnp.float32), 2, axis=1)
    if clamp is not None:
        assert (gate > clamp).any() and (jnp.abs(up) > clamp).any()
        gate, up = jnp.clip(gate, max=clamp), jnp.clip(up, -clamp, clamp)
    want = jax.nn.silu(gate) * up
    np.testing.assert_allclose(act.astype(jnp.float32), want, rtol=2**-8, atol=1e-6)
    assert "RACE DETECTED" not in capfd.readouterr().out


@pytest.mark.parametrize("clamp", [None, 10.0])
def test_fused_up_product_lowers_for_cuda(clamp):
    args = abstract(49_152, 2048), abstract(128, 2, 768, 2048), abstract(128, dtype=jnp.int32)
    assert "mosaic_gpu" in lower(functools.partial(dispatch.up, clamp=clamp), *args)


def abstract(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


def lower(function, *args):
    """The text of a function lowered for CUDA, where shared memory and layouts are checked."""
    return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


FIRST, *OTHERS = dispatch.TUNED
KEYS = (FIRST, *(pytest.param(key, marks=pytest.mark.slow) for key in OTHERS))


@pytest.mark.parametrize("key", KEYS, ids=lambda key: "-".join(map(str, key)))
@pytest.mark.long
def test_tuned_configurations_lower_for_cuda(key):
    width, out_width, num_groups = key
    lhs, grad = (abstract(49_152, n) for n in (width, out_width))
    sizes = abstract(num_groups, dtype=jnp.int32)
    product = functools.partial(dispatch.matmul, out_dtype=jnp.bfloat16, config=dispatch.TUNED[key])
    rhs, rhs_T = abstract(num_groups, width, out_width), abstract(num_groups, out_width, width)
    texts = [
        lower(functools.partial(product, transpose_rhs=False), lhs, rhs, sizes),
        lower(functools.partial(product, transpose_rhs=True), lhs, rhs_T, sizes),
    ]
    # float32 sums, which float32 weights ask for, take the most shared memory.
    sums = functools.partial(dispatch.outer, out_dtype=jnp.float32, config=dispatch.TUNED[key])
    texts.append(lower(sums, lhs, grad, sizes))
    assert all("mosaic_gpu" in text for text in texts)


@pytest.mark.long
def test_candidates_of_the_tuner_lower_for_cuda():
    lhs, rhs, sizes = abstract(4096, 2048), abstract(8, 2048, 1536), abstract(8, dtype=jnp.int32)
    matmuls, outers = tune.candidates()
    for config in matmuls:
        product = functools.partial(tune._matmul, config, transpose_rhs=False)
        lower(product, lhs, rhs, sizes)
    for config in outers:
        lower(functools.partial(tune._outer, config), lhs, lhs, sizes)


def products(lhs, rhs, group_sizes):
    """Both products of the Hopper kernels, (M, N) and (G, K, K)."""
    out = dispatch.matmul(lhs, rhs, group_sizes, transpose_rhs=False, out_dtype=lhs.dtype)
    return out, dispatch.outer(lhs, lhs, group_sizes, out_dtype=lhs.dtype)


@pytest.mark.long
def test_vmap_lowers_for_cuda():
    args = abstract(3, 200, 128), abstract(4, 128, 256), abstract(3, 4, dtype=jnp.int32)
    mapped = jax.vmap(products, in_axes=(0, None, 0))
    shapes = [x.shape for x in jax.eval_shape(mapped, *args)]
    assert shapes == [(3, 200, 256), (3, 4, 128, 128)]
    assert "mosaic_gpu" in lower(mapped, *args)


def test_shard_map_lowers_for_cuda():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    args = abstract(8 * 200, 128), abstract(4, 128, 256), abstract(8 * 4, dtype=jnp.int32)
    rows = P("data")
    sharded = jax.shard_map(products, mesh=mesh, in_specs=(rows, P(), rows), out_specs=(rows, rows))
    assert "mosaic_gpu" in lower(sharded, *args)
