"""Polar factors against the singular value decomposition, and the coefficient tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax import optim
from kanana_jax.optim import coefficients


def error_on_interval(schedule, lower=1e-3):
    x = np.geomspace(lower, 1.0, 200_001)
    for a, b, c in schedule.rows:
        x = a * x + b * x**3 + c * x**5
    return np.abs(1.0 - x).max()


def exact_polar(x):
    u, _, vt = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    return u @ vt


def test_generator_reproduces_the_published_polar_express_rows():
    np.testing.assert_allclose(
        coefficients.minimax_rows(8, 1e-3), coefficients._POLAR_EXPRESS, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (optim.polar_express(5, safety=1.0), 0.1236),
        (optim.polar_express(6, safety=1.0), 0.0012),
        (optim.POLAR_EXPRESS_5, 0.1538),
        (optim.POLAR_EXPRESS_6, 0.0056),
        (optim.newton_schulz(5), 0.5295),
    ],
)
def test_worst_error_on_the_interval_is_the_known_one(schedule, expected):
    # The known values are printed with four decimals.
    np.testing.assert_allclose(error_on_interval(schedule), expected, atol=6e-5)


def test_a_schedule_never_runs_fewer_or_other_steps_than_its_table():
    assert [optim.polar_express(n).steps for n in (1, 5, 8, 12)] == [1, 5, 8, 12]
    assert optim.POLAR_EXPRESS_8.first(5).rows == optim.POLAR_EXPRESS_5.rows
    with pytest.raises(ValueError, match="has 5 rows"):
        optim.POLAR_EXPRESS_5.first(6)
    with pytest.raises(ValueError, match="at least one step"):
        optim.newton_schulz(0)


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6), (1, 7), (7, 1), (2, 3, 5, 9)])
def test_update_has_unit_singular_values(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    got = optim.polar(x, optim.POLAR_EXPRESS_8, compute_dtype=jnp.float32)
    # 8 steps of sums over at most 20 terms in float32, and gaussian matrices' condition numbers.
    np.testing.assert_allclose(got, exact_polar(x), atol=2e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_scale_of_the_input_does_not_matter(scale):
    x = jax.random.normal(jax.random.key(1), (4, 5, 11))
    reference = optim.polar(x, optim.POLAR_EXPRESS_5, compute_dtype=jnp.float32)
    scaled = optim.polar(x * scale, optim.POLAR_EXPRESS_5, compute_dtype=jnp.float32)
    np.testing.assert_allclose(scaled, reference, atol=1e-5)


def test_zero_matrices_in_a_batch_stay_zero_and_leave_the_others_alone():
    x = jax.random.normal(jax.random.key(2), (3, 4, 6)).at[1].set(0.0)
    got = optim.polar(x, optim.POLAR_EXPRESS_5)
    np.testing.assert_array_equal(got[1], jnp.zeros((4, 6)))
    np.testing.assert_array_equal(got[0], optim.polar(x[0], optim.POLAR_EXPRESS_5))


def test_bfloat16_compute_keeps_the_input_dtype():
    x = jax.random.normal(jax.random.key(3), (8, 24))
    got = optim.polar(x, optim.POLAR_EXPRESS_8, compute_dtype=jnp.bfloat16)
    assert got.dtype == jnp.float32
    # Rounding x to bfloat16 (2^-9) turns its factor by up to 2 cond(x), here 2 x 3, of that.
    error = np.linalg.norm(got - exact_polar(x)) / np.linalg.norm(exact_polar(x))
    np.testing.assert_array_less(error, 6 * 2.0**-9)
