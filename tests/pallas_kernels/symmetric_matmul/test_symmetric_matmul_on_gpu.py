"""Symmetric products and the polar factors made of them, on a Hopper GPU against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from kanana_jax import optim
from pallas_kernels.symmetric_matmul import cases

pytestmark = pytest.mark.gpu

IMPLEMENTATION = "mosaic_gpu"
DTYPES = (jnp.bfloat16, jnp.float16)
# Rows, columns and batches that fill tiles and that do not, small enough for float64 on the host.
CASES = (
    cases.Case("one_tile", "gram", 1, 128, 64),
    cases.Case("ragged", "gram", 3, 320, 192),
    cases.Case("tall", "gram", 2, 576, 64),
    cases.Case("experts", "gram", 4, 768, 2048),
    cases.Case("experts_polynomial", "polynomial", 4, 768, 768),
    cases.Case("ragged_polynomial", "polynomial", 2, 448, 448),
    cases.Case("experts_commuting", "commuting", 4, 768, 768),
    cases.Case("many", "gram", 2048, 128, 192),
)


@functools.partial(jax.jit, static_argnames="implementation")
def product(lhs, rhs, addend, factors, implementation=IMPLEMENTATION):
    return pallas_kernels.symmetric_matmul(
        lhs, rhs, addend, implementation=implementation, **factors
    )


@functools.partial(jax.jit, static_argnames=("schedule", "dtype"))
def polar(x, schedule=optim.POLAR_EXPRESS_5, dtype=jnp.float16):
    symmetric = functools.partial(pallas_kernels.symmetric_matmul, implementation=IMPLEMENTATION)
    return optim.polar(x, schedule, compute_dtype=dtype, symmetric_product=symmetric)


def gaussian(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def singular_values(x):
    return np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)


def with_spectrum(values, num_cols):
    """A matrix with these singular values and random singular vectors."""
    rng = np.random.default_rng(0)
    size = len(values)
    left = np.linalg.qr(rng.standard_normal((size, size)))[0]
    right = np.linalg.qr(rng.standard_normal((num_cols, size)))[0]
    return jnp.asarray(left * values @ right.T, jnp.float32)


# Each shape in one of the two dtypes: compiling takes most of the time.
@pytest.mark.parametrize(
    ("case", "dtype"),
    [pytest.param(case, DTYPES[i % 2], id=case.name) for i, case in enumerate(CASES)],
)
def test_product_is_rounded_once_symmetric_and_repeatable(case, dtype):
    *arrays, factors = cases.make_inputs(case)
    lhs, rhs, addend = (None if x is None else jnp.asarray(x, dtype) for x in arrays)
    got = product(lhs, rhs, addend, factors)
    np.testing.assert_array_equal(got, got.mT)
    np.testing.assert_array_equal(got, product(lhs, rhs, addend, factors))
    got = np.asarray(got, np.float64)

    wide = [None if x is None else np.asarray(x, np.float64) for x in (lhs, rhs, addend)]
    want = factors.get("scale", 1.0) * wide[0] @ wide[rhs is not None].swapaxes(1, 2)
    if addend is not None:
        want += factors["addend_scale"] * wide[2]
    want += factors.get("diagonal", 0.0) * np.eye(case.size)
    # Half a unit in the last place of the largest entry, and float32 sums of `width` terms.
    atol = (0.5 * float(jnp.finfo(dtype).eps) + 2**-18) * np.abs(want).max()
    # Rounded matrices no longer commute: the kernel may mirror either half of their product.
    off = np.minimum(np.abs(got - want), np.abs(got - want.swapaxes(1, 2)))
    np.testing.assert_array_less(off, atol)


def test_auto_takes_the_kernel_for_large_products_and_xla_for_the_rest():
    def choice(*shape):
        return pallas_kernels.symmetric_matmul_choice(jax.ShapeDtypeStruct(shape, jnp.float16))

    assert choice(128, 768, 2048).implementation == "mosaic_gpu"
    assert choice(1, 128, 128).implementation == "xla"
    odd = choice(128, 770, 1001)
    assert odd.implementation == "xla" and "multiples of 64" in odd.reasons["mosaic_gpu"]


@pytest.mark.parametrize("shape", ((1, 320, 576), (1, 576, 320), (2048, 128, 192)), ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_singular_values_of_the_factor_are_within_the_schedules_bound(shape, dtype):
    # All values are above 1e-3 of the norm, where five rows are off by 0.154 at most.
    atol = 0.154 + 8 * float(jnp.finfo(dtype).eps)
    factors = polar(gaussian(*shape), dtype=dtype)
    values = singular_values(factors[np.array([0, -1])])
    np.testing.assert_allclose(values, 1.0, rtol=0, atol=atol)


# The tests from here on share one compiled function per dtype.
SHAPE = 2, 256, 512


@pytest.mark.parametrize("scale", (1e-30, 1e30))
def test_scale_does_not_matter(scale):
    x = gaussian(*SHAPE)
    # The norm is rounded differently, and float16 then rounds entries the other way.
    np.testing.assert_allclose(polar(x * scale), polar(x), rtol=0, atol=2**-8)


def test_zero_matrices_stay_zero_among_others():
    x = gaussian(*SHAPE).at[1].set(0.0)
    got = polar(x)
    np.testing.assert_array_equal(got[1], 0.0)
    np.testing.assert_allclose(singular_values(got[0]), 1.0, rtol=0, atol=0.17)


def test_rank_one_gives_its_direction():
    left, right = gaussian(SHAPE[1]), gaussian(SHAPE[2])
    got = polar(gaussian(*SHAPE).at[0].set(jnp.outer(left, right)))[0]
    want = np.outer(left, right) / np.linalg.norm(left) / np.linalg.norm(right)
    np.testing.assert_allclose(np.vdot(got, want), 1.0, atol=0.17)
    # The rows' slopes, 800 in all, amplify what rounding to float16 adds in other directions.
    assert singular_values(got)[1] < 0.1


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_condition_1e12_neither_diverges_nor_turns_the_large_directions(dtype):
    values = np.geomspace(1.0, 1e-12, SHAPE[1])
    x = with_spectrum(values, SHAPE[2])
    got = np.asarray(polar(gaussian(*SHAPE).at[0].set(x), dtype=dtype)[0], np.float64)
    assert singular_values(got).max() < 1.17
    left, _, right = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    along = np.einsum("MR,MN,RN->R", left, got, right)
    is_large = values / np.linalg.norm(values) > 0.01
    np.testing.assert_allclose(along[is_large], 1.0, rtol=0, atol=0.17)
