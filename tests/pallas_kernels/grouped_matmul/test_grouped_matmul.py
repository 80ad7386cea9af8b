"""Grouped products against float64, their gradients, and the cost and caching they promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

import pallas_kernels
from pallas_kernels.grouped_matmul import cases, xla

# Float32 sums of n products of about 1 reach sqrt(n) and round n times at random: 4 n 2^-24.
ROUNDING = 2**-22
IMPLEMENTATIONS = ("reference", "xla")
by_case = pytest.mark.parametrize("case", cases.SMALL_CASES, ids=lambda case: case.name)
by_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def exact(lhs, rhs, grad, group_sizes):
    """Product and both gradients in float64 numpy, with rhs (G, K, N)."""
    lhs, rhs, grad = (np.asarray(x, np.float64) for x in (lhs, rhs, grad))
    out, dlhs, drhs = (np.zeros(shape) for shape in (grad.shape, lhs.shape, rhs.shape))
    start = 0
    for group, size in enumerate(group_sizes):
        rows = slice(start, start + size)
        out[rows] = lhs[rows] @ rhs[group]
        dlhs[rows] = grad[rows] @ rhs[group].T
        drhs[group] = lhs[rows].T @ grad[rows]
        start += size
    return out, dlhs, drhs


# Compiling costs more than running these, and rounding does not depend on the compiler's effort.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.partial(jit, static_argnames=("transpose_rhs", "implementation"))
def with_gradients(lhs, rhs, grad, group_sizes, *, transpose_rhs, implementation):
    """The same three arrays from the op; rhs and its gradient are (G, K, N) on both sides."""

    def product(lhs, rhs):
        rhs = jnp.swapaxes(rhs, 1, 2) if transpose_rhs else rhs
        return pallas_kernels.grouped_matmul(
            lhs, rhs, group_sizes, transpose_rhs=transpose_rhs, implementation=implementation
        )

    out, pullback = jax.vjp(product, lhs, rhs)
    return out, *pullback(grad)


def cast_inputs(case, dtype):
    *arrays, group_sizes = cases.make_inputs(case)
    return *(jnp.asarray(x, dtype) for x in arrays), group_sizes


@pytest.mark.parametrize(
    ("implementation", "transpose_rhs"),
    [
        ("xla", False),
        pytest.param("xla", True, marks=pytest.mark.slow),
        pytest.param("reference", False, marks=pytest.mark.slow),
    ],
)
@by_case
def test_float32_agrees_with_float64(case, implementation, transpose_rhs):
    inputs = cast_inputs(case, jnp.float32)
    got = with_gradients(*inputs, transpose_rhs=transpose_rhs, implementation=implementation)
    for x, y in zip(got, exact(*inputs), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=ROUNDING * case.num_rows)


@pytest.mark.parametrize("case", cases.SMALL_CASES[1:7], ids=lambda case: case.name)
def test_bfloat16_errs_at_most_twice_as_much_as_plain_bfloat16(case):
    inputs = cast_inputs(case, jnp.bfloat16)
    got = with_gradients(*inputs, transpose_rhs=False, implementation="xla")
    # Plain bfloat16: the exact result, rounded once.
    for x, y in zip(got, exact(*inputs), strict=True):
        rounded = np.asarray(jnp.asarray(y, jnp.bfloat16), np.float64)
        assert x.dtype == jnp.bfloat16
        assert np.linalg.norm(np.asarray(x, np.float64) - y) <= 2 * np.linalg.norm(rounded - y)


@by_implementation
def test_rows_beyond_the_groups_and_empty_groups_are_zero(implementation):
    lhs, rhs, grad, _ = cast_inputs(cases.SMALL_CASES[0], jnp.float32)
    group_sizes = jnp.array([10, 0, 140, 0], jnp.int32)
    # Values beyond the groups must not leak, not even as NaN * 0.
    lhs, grad = lhs.at[150:].set(np.nan), grad.at[150:].set(np.nan)
    out, dlhs, drhs = with_gradients(
        lhs, rhs, grad, group_sizes, transpose_rhs=False, implementation=implementation
    )
    np.testing.assert_array_equal(out[150:], 0.0)
    np.testing.assert_array_equal(dlhs[150:], 0.0)
    np.testing.assert_array_equal(drhs[1::2], 0.0)
    assert all(np.isfinite(x).all() for x in (out, dlhs, drhs))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 150), min_size=4, max_size=4).filter(lambda n: sum(n) <= 300))
def test_any_group_sizes_agree_with_float64(group_sizes):
    case = cases.Case("any", 384, 16, 24, 4, tuple(group_sizes))
    inputs = cast_inputs(case, jnp.float32)
    got = with_gradients(*inputs, transpose_rhs=True, implementation="xla")
    for x, y in zip(got, exact(*inputs), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=ROUNDING * case.num_rows)


def test_several_steps_agree_with_one(monkeypatch):
    inputs = cast_inputs(cases.SMALL_CASES[1], jnp.float32)
    run = functools.partial(with_gradients, transpose_rhs=False, implementation="xla")
    at_once = run(*inputs)
    monkeypatch.setattr(xla, "STEP_BYTES", 2 * 24 * 40 * 4)
    run = functools.partial(with_gradients.__wrapped__, transpose_rhs=False, implementation="xla")
    for x, y in zip(jit(run)(*inputs), at_once, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_outer_differentiates_through_the_products():
    lhs, _, grad, group_sizes = cast_inputs(cases.SMALL_CASES[2], jnp.float32)
    cotangent = jax.random.normal(jax.random.key(1), (4, 16, 24))

    @jit
    def gradients(lhs, grad, cotangent):
        outer = functools.partial(pallas_kernels.grouped_outer, group_sizes=group_sizes)
        return jax.vjp(outer, lhs, grad)[1](cotangent)

    dlhs, dgrad = gradients(lhs, grad, cotangent)
    want_dgrad, want_dlhs, _ = exact(lhs, cotangent, grad, group_sizes)
    np.testing.assert_allclose(dgrad, want_dgrad, rtol=0, atol=1e-4)
    np.testing.assert_allclose(dlhs, want_dlhs, rtol=0, atol=1e-4)


@by_implementation
def test_preferred_element_type_keeps_float32_sums(implementation):
    lhs, rhs, grad, group_sizes = cast_inputs(cases.SMALL_CASES[0], jnp.bfloat16)
    kwargs = {"preferred_element_type": jnp.float32, "implementation": implementation}
    out = jit(functools.partial(pallas_kernels.grouped_matmul, **kwargs))(lhs, rhs, group_sizes)
    drhs = jit(functools.partial(pallas_kernels.grouped_outer, **kwargs))(lhs, grad, group_sizes)
    want = exact(lhs, rhs, grad, group_sizes)
    np.testing.assert_allclose(out, want[0], atol=1e-4)
    np.testing.assert_allclose(drhs, want[2], atol=1e-3)
    assert out.dtype == drhs.dtype == jnp.float32


@pytest.mark.parametrize("case", cases.SMALL_CASES[1:8:2], ids=lambda case: case.name)
def test_the_native_products_taken_on_tpu_agree_with_float64(case):
    lhs, rhs, grad, group_sizes = cast_inputs(case, jnp.float32)
    kwargs = {"out_dtype": jnp.float32}
    out = xla._native_matmul(lhs, rhs, group_sizes, transpose_rhs=False, **kwargs)
    dlhs = xla._native_matmul(grad, rhs, group_sizes, transpose_rhs=True, **kwargs)
    drhs = xla._native_outer(lhs, grad, group_sizes, **kwargs)
    for x, y in zip((out, dlhs, drhs), exact(lhs, rhs, grad, group_sizes), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=ROUNDING * case.num_rows)


def test_only_tpu_takes_the_native_products():
    inputs = cast_inputs(cases.SMALL_CASES[1], jnp.bfloat16)
    run = functools.partial(with_gradients.__wrapped__, transpose_rhs=False, implementation="xla")
    traced = jax.jit(run).trace(*inputs)
    for platform, is_native in (("cpu", False), ("cuda", False), ("tpu", True)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("ragged_dot" in text) == is_native


def count_flops(num_groups):
    def loss(lhs, rhs, group_sizes):
        return pallas_kernels.grouped_matmul(lhs, rhs, group_sizes, implementation="xla").sum()

    lhs = jax.ShapeDtypeStruct((2048, 64), jnp.float32)
    rhs = jax.ShapeDtypeStruct((num_groups, 64, 64), jnp.float32)
    group_sizes = jax.ShapeDtypeStruct((num_groups,), jnp.int32)
    grad = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return grad.lower(lhs, rhs, group_sizes).compile().cost_analysis()["flops"]


def test_work_is_proportional_to_rows_not_to_rows_times_groups():
    product = 2 * 2048 * 64 * 64
    for num_groups in (2, 16):
        # Two products in the gradient; each group may leave one block part empty.
        blocks = 1 + num_groups * xla.BLOCK_ROWS / 2048
        assert count_flops(num_groups) <= 1.25 * 2 * product * blocks


def test_new_group_sizes_compile_nothing():
    lhs, rhs, _, _ = cast_inputs(cases.SMALL_CASES[0], jnp.float32)
    traces = []

    @jax.jit
    def product(group_sizes):
        traces.append(group_sizes)
        return pallas_kernels.grouped_matmul(lhs, rhs, group_sizes)

    for sizes in ([128, 128, 128, 128], [512, 0, 0, 0], [1, 2, 3, 4]):
        product(jnp.array(sizes, jnp.int32)).block_until_ready()
    assert len(traces) == 1 and product._cache_size() == 1


@pytest.mark.long
def test_works_under_checkpoint_and_vmap():
    lhs, rhs, _, group_sizes = cast_inputs(cases.SMALL_CASES[2], jnp.float32)

    def loss(lhs):
        return (pallas_kernels.grouped_matmul(lhs, rhs, group_sizes) ** 2).sum()

    want = jit(jax.grad(loss))(lhs)
    np.testing.assert_allclose(jit(jax.grad(jax.checkpoint(loss)))(lhs), want, rtol=1e-6)
    got = jit(jax.vmap(jax.grad(loss)))(jnp.stack([lhs, 2 * lhs]))
    np.testing.assert_allclose(got, np.stack([want, 2 * want]), rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_shard_map_sums_the_gradient_of_replicated_matrices():
    lhs, rhs, _, _ = cast_inputs(cases.SMALL_CASES[0], jnp.float32)
    group_sizes = np.array([[100, 28, 0, 128], [7, 49, 200, 0]], np.int32)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def local_loss(lhs, rhs, group_sizes):
        return (pallas_kernels.grouped_matmul(lhs, rhs, group_sizes[0]) ** 2).sum()

    def sharded_loss(lhs, rhs):
        def local(*args):
            return jax.lax.psum(local_loss(*args), "data")

        specs = (P("data"), P(), P("data"))
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())(lhs, rhs, group_sizes)

    def loss(lhs, rhs):
        halves = zip(jnp.split(lhs, 2), np.split(group_sizes, 2), strict=True)
        return sum(local_loss(half, rhs, sizes) for half, sizes in halves)

    got = jit(jax.grad(sharded_loss, argnums=(0, 1)))(lhs, rhs)
    want = jit(jax.grad(loss, argnums=(0, 1)))(lhs, rhs)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)


def test_auto_names_its_choice_and_the_reasons_against_the_others():
    choice = pallas_kernels.grouped_matmul_choice(jnp.ones((8, 4)), jnp.ones((2, 4, 4)))
    assert choice.implementation == "xla"
    assert choice.implementation not in choice.reasons
    assert all(choice.reasons.values())


@pytest.mark.parametrize(
    ("lhs", "rhs", "group_sizes", "message"),
    [
        (jnp.ones((8, 4)), jnp.ones((2, 5, 6)), jnp.ones(2, jnp.int32), "must agree"),
        (jnp.ones((8, 4)), jnp.ones((2, 4, 6)), jnp.ones(3, jnp.int32), "one group size per"),
        (jnp.ones((8, 4)), jnp.ones((2, 4, 6)), jnp.ones(2), "one-dimensional integers"),
        (jnp.ones((2, 8, 4)), jnp.ones((2, 4, 6)), jnp.ones(2, jnp.int32), r"lhs \(M, K\)"),
        (jnp.ones((8, 4), jnp.bfloat16), jnp.ones((2, 4, 6)), jnp.ones(2, jnp.int32), "dtype"),
    ],
)
def test_wrong_arguments_are_named(lhs, rhs, group_sizes, message):
    with pytest.raises(ValueError, match=message):
        pallas_kernels.grouped_matmul(lhs, rhs, group_sizes)


def test_unknown_implementation_is_named():
    with pytest.raises(ValueError, match="'triton'"):
        pallas_kernels.grouped_matmul(
            jnp.ones((8, 4)),
            jnp.ones((2, 4, 6)),
            jnp.ones(2, jnp.int32),
            implementation="triton",
        )
