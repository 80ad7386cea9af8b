"""The device cases on a Hopper GPU, through the public entry, against float64 on the GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.grouped_matmul import cases
from pallas_kernels.grouped_matmul.gpu import dispatch

pytestmark = pytest.mark.gpu

ODD_SIZES = (0, 1, 7, 8, 9, 0, 63, 64, 65, 127, 128, 129, 255, 2, 600, 0)
CASES = (
    *cases.BENCHMARK_CASES,
    cases.Case("odd_up", 1999, 2048, 1536, 16, ODD_SIZES),
    cases.Case("odd_down", 1999, 768, 2048, 16, ODD_SIZES),
    cases.Case("odd_columns", 1460, 1408, 192, 16, ODD_SIZES),
    cases.Case("one_group_of_many", 3000, 2048, 1536, 128, (0,) * 99 + (3000,) + (0,) * 28),
    cases.Case("no_rows_at_all", 1000, 768, 2048, 4, (0,) * 4),
)


@functools.partial(jax.jit, static_argnames="case")
def draw(case):
    """lhs (M, K), rhs (G, K, N) and grad (M, N) in bfloat16, drawn on the device."""
    keys = jax.random.split(jax.random.key(0), 3)
    num_rows, width, out_width, num_groups = case[1:5]
    lhs, grad = (
        jax.random.normal(key, (num_rows, n), jnp.bfloat16)
        for key, n in zip(keys, (width, out_width), strict=False)
    )
    rhs = jax.random.normal(keys[2], (num_groups, width, out_width), jnp.bfloat16)
    return lhs, rhs * jnp.bfloat16(width**-0.5), grad


@jax.jit
def products(lhs, rhs, grad, group_sizes):
    """The product and its gradients in lhs and rhs, from the public entry."""

    def product(lhs, rhs):
        return pallas_kernels.grouped_matmul(lhs, rhs, group_sizes)

    out, pullback = jax.vjp(product, lhs, rhs)
    return out, *pullback(grad)


@functools.partial(jax.jit, static_argnames="window")
def errors(window, lhs, rhs, grad, group_sizes, ours):
    """Squared errors (3, 2) of ours and of plain bfloat16; no group has more than `window` rows.

    The exact products are float32 ones at the highest precision: 2^-24 against the 2^-9 of a
    rounding to bfloat16.
    """
    start_G = jnp.cumsum(group_sizes) - group_sizes

    def all_three(dtype, lhs, rhs, grad):
        lhs, rhs, grad = (x.astype(dtype) for x in (lhs, rhs, grad))
        dot = functools.partial(jnp.dot, precision="highest" if dtype == jnp.float32 else None)
        # Without the barrier XLA would leave out the rounding of the results.
        return jax.lax.optimization_barrier((dot(lhs, rhs), dot(grad, rhs.T), dot(lhs.T, grad)))

    def of_group(group):
        start, size, rhs, our_drhs = group
        at = jnp.clip(start, 0, lhs.shape[0] - window)
        row = at + jnp.arange(window)
        is_own = ((row >= start) & (row < start + size))[:, None]

        def own(x):
            return jnp.where(is_own, jax.lax.dynamic_slice_in_dim(x, at, window), 0)

        arrays = own(lhs), rhs, own(grad)
        want, plain = (all_three(dtype, *arrays) for dtype in (jnp.float32, jnp.bfloat16))
        got = own(ours[0]), own(ours[1]), our_drhs
        return jnp.array(
            [[_square(x - z), _square(y - z)] for x, y, z in zip(got, plain, want, strict=True)]
        )

    return jax.lax.map(of_group, (start_G, group_sizes, rhs, ours[2])).sum(axis=0)


def _square(x):
    return (x.astype(jnp.float32) ** 2).sum()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_errs_at_most_twice_as_much_as_plain_bfloat16(case):
    group_sizes = cases.make_group_sizes(case, np.random.default_rng(0))
    total = int(group_sizes.sum())
    lhs, rhs, grad = draw(case)
    if total < case.num_rows:
        # Values beyond the groups must not leak, not even as NaN * 0.
        lhs, grad = (x.at[total:].set(jnp.nan) for x in (lhs, grad))
    assert pallas_kernels.grouped_matmul_choice(lhs, rhs).implementation == "mosaic_gpu"

    ours = products(lhs, rhs, grad, group_sizes)
    again = products(lhs, rhs, grad, group_sizes)
    assert all(bool((x == y).all()) for x, y in zip(ours, again, strict=True)), "not repeatable"
    assert all(bool((x[total:] == 0).all()) for x in ours[:2]), "rows beyond the groups"
    # A power-of-two number of rows, so that cases with about equal groups share a compilation.
    window = min(case.num_rows, 1 << int(group_sizes.max()).bit_length())
    squares = np.asarray(errors(window, lhs, rhs, grad, group_sizes, ours))
    for name, (our_square, plain_square) in zip(("out", "dlhs", "drhs"), squares, strict=True):
        assert our_square <= 4 * plain_square, name


@pytest.mark.parametrize("name", ("kanana_2_30b_up", "moonlight_up", "odd_up"))
def test_fused_activation_is_that_of_the_product(name):
    case = next(case for case in CASES if case.name == name)
    num_rows, hidden, width, num_experts = case[1:5]
    group_sizes = cases.make_group_sizes(case, np.random.default_rng(0))
    x, w, _ = draw(case)
    w = w.reshape(num_experts, width, hidden)
    x = x.at[int(group_sizes.sum()) :].set(jnp.nan)
    w_E2FD = w.reshape(num_experts, 2, width // 2, hidden)
    h, act = jax.jit(dispatch.up)(x, w_E2FD, group_sizes)
    product = functools.partial(pallas_kernels.grouped_matmul, transpose_rhs=True)
    assert bool((h == jax.jit(product)(x, w, group_sizes)).all())
    gate, up = jnp.split(h.astype(jnp.float32), 2, axis=1)
    np.testing.assert_allclose(
        act.astype(jnp.float32), jax.nn.silu(gate) * up, rtol=2**-7, atol=1e-6
    )
    assert act.shape == (num_rows, width // 2)
