"""Polar factors against the singular value decomposition, and the coefficient tables."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pallas_kernels
from kanana_jax import optim
from kanana_jax.optim import coefficients, orthogonalize

compiled_polar = jax.jit(
    optim.polar, static_argnames=("schedule", "compute_dtype", "method", "symmetric_product")
)


# What a kernel computes: one rounding, of all terms.
reference_product = functools.partial(pallas_kernels.symmetric_matmul, implementation="reference")


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
        (optim.deepseek_v4(), 0.0005),
        (optim.cans(), 0.1198),
    ],
)
def test_worst_error_on_the_interval_is_the_known_one(schedule, expected):
    # The known values are printed with four decimals.
    np.testing.assert_allclose(error_on_interval(schedule), expected, atol=6e-5)


def test_modded_rows_have_the_known_error_before_their_division_by_1_02():
    raw = optim.PolarSchedule(name="raw", rows=coefficients._MODDED, source="")
    np.testing.assert_allclose(error_on_interval(raw), 0.1411, atol=6e-5)
    x = 0.7
    (a, b, c), (p, q, r) = coefficients._MODDED[0], optim.modded_nanogpt().rows[0]
    scaled = a * (x / 1.02) + b * (x / 1.02) ** 3 + c * (x / 1.02) ** 5
    np.testing.assert_allclose(p * x + q * x**3 + r * x**5, scaled, rtol=1e-12)


def test_a_schedule_never_runs_fewer_or_other_steps_than_its_table():
    assert [optim.polar_express(n).steps for n in (1, 5, 8, 12)] == [1, 5, 8, 12]
    assert optim.POLAR_EXPRESS_8.first(5).rows == optim.POLAR_EXPRESS_5.rows
    with pytest.raises(ValueError, match="has 5 rows"):
        optim.POLAR_EXPRESS_5.first(6)
    with pytest.raises(ValueError, match="at least one step"):
        optim.newton_schulz(0)
    with pytest.raises(ValueError, match="at least one row"):
        optim.PolarSchedule(name="empty", rows=(), source="")
    with pytest.raises(ValueError, match="0 < lower < 1"):
        optim.polar_express(5, lower=0.0)


def test_other_lower_bounds_are_met_by_the_generated_rows():
    for lower, steps in ((1e-2, 5), (1e-3, 6), (1e-4, 8)):
        schedule = optim.polar_express(steps, lower=lower, safety=1.0)
        assert error_on_interval(schedule, lower) < 0.002


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6), (1, 7), (7, 1), (2, 3, 5, 9)])
def test_update_has_unit_singular_values(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    got = compiled_polar(x, optim.POLAR_EXPRESS_8, compute_dtype=jnp.float32)
    # 8 steps of sums over at most 20 terms in float32, and gaussian matrices' condition numbers.
    np.testing.assert_allclose(got, exact_polar(x), atol=2e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_scale_of_the_input_does_not_matter(scale):
    x = jax.random.normal(jax.random.key(1), (4, 5, 11))
    reference = compiled_polar(x, optim.POLAR_EXPRESS_5, compute_dtype=jnp.float32)
    scaled = compiled_polar(x * scale, optim.POLAR_EXPRESS_5, compute_dtype=jnp.float32)
    np.testing.assert_allclose(scaled, reference, atol=1e-5)


def test_zero_matrices_in_a_batch_stay_zero_and_leave_the_others_alone():
    x = jax.random.normal(jax.random.key(2), (3, 4, 6)).at[1].set(0.0)
    got = compiled_polar(x, optim.POLAR_EXPRESS_5, compute_dtype=jnp.float32)
    np.testing.assert_array_equal(got[1], np.zeros((4, 6)))
    alone = compiled_polar(x[::2], optim.POLAR_EXPRESS_5, compute_dtype=jnp.float32)
    np.testing.assert_allclose(got[::2], alone, atol=1e-6)


def matrix_with(spectrum, num_cols=96):
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((len(spectrum), len(spectrum))))[0]
    v = np.linalg.qr(rng.standard_normal((num_cols, len(spectrum))))[0]
    return u, v, jnp.asarray((u * spectrum) @ v.T, jnp.float32)


def apply_rows(schedule, spectrum):
    x = spectrum / np.linalg.norm(spectrum)
    for a, b, c in schedule.rows:
        x = a * x + b * x**3 + c * x**5
    return x


@pytest.mark.parametrize("method", ["direct", "gram"])
@pytest.mark.parametrize("compute_dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("schedule", [optim.polar_express(5, safety=1.05), optim.POLAR_EXPRESS_8])
def test_both_forms_compute_the_polynomial_over_three_decades(method, compute_dtype, schedule):
    spectrum = np.geomspace(1e-3, 1.0, 32)
    u, v, x = matrix_with(spectrum)
    expected = (u * apply_rows(schedule, spectrum)) @ v.T
    got = compiled_polar(x, schedule, compute_dtype=compute_dtype, method=method)
    # Rounding to eps disturbs the smallest directions, which the rows then raise to 1: eps / 2e-3
    # in the worst of 32 directions, less on average, and most where each product is rounded once.
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    bound = 64 if compute_dtype == jnp.float32 else 25
    assert error < bound * float(jnp.finfo(compute_dtype).eps)


def schedule_of(*rows, **kwargs):
    return optim.PolarSchedule(name="rows", rows=rows, source="none", **kwargs)


@pytest.mark.parametrize("method", ["direct", "gram"])
@pytest.mark.parametrize("is_tall", [False, True], ids=["wide", "tall"])
@pytest.mark.parametrize(
    "schedule",
    [
        optim.newton_schulz(5),
        schedule_of(*optim.newton_schulz(3).rows, precondition="aol"),
        # The cubic iteration has no square to complete, a negative c one to subtract.
        schedule_of((2.5, -2.0, 0.0), (1.5, -0.5, 0.0), (1.875, -1.25, 0.375)),
        schedule_of((3.0, -2.0, -0.3), (1.5, -0.4, -0.1)),
        schedule_of((3.0, -2.0, -0.3), (1.5, -0.4, 0.1)),
    ],
    ids=["jordan", "aol", "cubic", "negative", "mixed"],
)
def test_completed_squares_compute_the_rows(method, is_tall, schedule):
    _, _, x = matrix_with(np.geomspace(0.2, 1.0, 32), num_cols=48)
    x = x.T if is_tall else x
    exact = compiled_polar(x, schedule, compute_dtype=jnp.float32, method="direct")
    got = compiled_polar(x, schedule, compute_dtype=jnp.float16, method=method)
    assert np.linalg.norm(got - exact) / np.linalg.norm(exact) < 5e-3


@pytest.mark.parametrize("method", ["direct", "gram"])
def test_completed_squares_get_back_what_the_diagonal_loses_by_rounding(method):
    # Equal singular values: all of R is on its diagonal, and all of it is rounded alike.
    _, _, x = matrix_with(np.ones(192), num_cols=256)
    exact = compiled_polar(x, optim.POLAR_EXPRESS_5, compute_dtype=jnp.float32, method="direct")
    got = compiled_polar(x, optim.POLAR_EXPRESS_5, compute_dtype=jnp.float16, method=method)
    assert np.linalg.norm(got - exact) / np.linalg.norm(exact) < 4e-3


@pytest.mark.parametrize("method", ["direct", "gram"])
def test_completed_squares_leave_products_and_diagonals_only(method):
    # Polar Express's rows differ, so the factors with which R and X are kept differ too.
    run = functools.partial(
        optim.polar, schedule=optim.POLAR_EXPRESS_5, compute_dtype=jnp.float16, method=method
    )
    text = str(jax.make_jaxpr(run)(jnp.ones((3, 24, 40), jnp.float16)))
    assert "f16[3,24,24] = dot_general" in text
    assert not re.search(r"f32\[3,24,24\]|f16\[3,24,(24|40)\] = (mul|add|sub|neg)", text)


def test_gram_form_is_chosen_where_it_multiplies_less_and_is_safe():
    def choose(rows, cols, dtype):
        return orthogonalize.choose_method(rows, cols, optim.POLAR_EXPRESS_5, dtype)

    assert choose(64, 64, jnp.float16) == choose(64, 64, jnp.float32) == "direct"
    for shape in ((64, 256), (256, 64)):
        assert choose(*shape, jnp.float16) == choose(*shape, jnp.float32) == "gram"
        assert choose(*shape, jnp.bfloat16) == "direct"


def one_large_value(num_matrices, size, num_cols):
    """Spectra like those of a query gradient: one large value over a falling tail."""
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((num_matrices, size, size)))[0]
    v = np.linalg.qr(rng.standard_normal((num_matrices, num_cols, size)))[0]
    ratio = rng.uniform(0.01, 0.5, (num_matrices, 1))
    tail = ratio * np.geomspace(1.0, 10.0 ** -rng.uniform(0.5, 3, num_matrices), size - 1).T
    spectrum = np.concatenate([np.ones((num_matrices, 1)), tail], axis=1)
    return jnp.asarray(np.einsum("bij,bj,bkj->bik", u, spectrum, v), jnp.float32)


@pytest.mark.parametrize(
    ("compute_dtype", "method", "safety"),
    [
        (jnp.bfloat16, "auto", 1.01),
        (jnp.float16, "auto", 1.01),
        (jnp.float32, "auto", 1.01),
        (jnp.bfloat16, "gram", 1.05),
    ],
)
def test_no_singular_value_escapes_when_one_dominates(compute_dtype, method, safety):
    x = one_large_value(128, 16, 64)
    schedule = optim.polar_express(5, safety=safety)
    got = compiled_polar(x, schedule, compute_dtype=compute_dtype, method=method)
    largest = np.linalg.svd(np.asarray(got, np.float64), compute_uv=False).max()
    # 1.124 is the polynomial's maximum on [0, 1]; a value that escapes is past 1.3 at once.
    assert largest < 1.17


def test_no_singular_value_escapes_when_products_mirror_their_upper_half():
    def mirrored(*args, **factors):
        result = reference_product(*args, **factors)
        return jnp.triu(result) + jnp.triu(result, 1).mT

    x = one_large_value(128, 16, 64)
    got = compiled_polar(
        x,
        optim.POLAR_EXPRESS_5,
        compute_dtype=jnp.float16,
        method="gram",
        symmetric_product=mirrored,
    )
    assert np.linalg.svd(np.asarray(got, np.float64), compute_uv=False).max() < 1.17


def test_first_gram_matrix_bears_three_rows_that_grow_its_errors_little():
    rows = {"jordan": [], "polar express": [], "aol": []}
    schedules = optim.newton_schulz(6), optim.POLAR_EXPRESS_5, optim.turbo_muon()
    for sizes, schedule in zip(rows.values(), schedules, strict=True):
        sizes += [len(visit) for visit in orthogonalize._visits(schedule, "gram")]
    assert rows == {"jordan": [3, 2, 1], "polar express": [2, 2, 1], "aol": [2, 2]}


def test_three_rows_are_as_exact_as_one_for_a_large_value_over_a_flat_tail():
    # Three rows cost most on this spectrum: rounding errors of the large value reach the tail.
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((size, 96)))[0] for size in (96, 256))
    x = jnp.asarray(u * np.r_[1.0, np.full(95, 0.03)] @ v.T, jnp.float32)
    schedule = optim.newton_schulz(5)
    exact = compiled_polar(x, schedule, compute_dtype=jnp.float32, method="direct")
    got = compiled_polar(x, schedule, compute_dtype=jnp.float16, method="gram")
    assert np.linalg.norm(got - exact) / np.linalg.norm(exact) < 0.03


@pytest.mark.parametrize("method", ["direct", "gram"])
@pytest.mark.parametrize(
    ("shape", "schedule"),
    [((24, 56), optim.POLAR_EXPRESS_5), ((56, 24), optim.newton_schulz(5))],
    ids=("wide", "tall"),
)
def test_counted_flops_are_the_compilers(method, shape, schedule):
    def factor(x):
        return optim.polar(x, schedule, compute_dtype=jnp.float32, method=method)

    lowered = jax.jit(factor).lower(jnp.zeros(shape))
    products = [line for line in lowered.as_text().splitlines() if "dot_general" in line]
    flops = 0
    for line in products:
        left, right, out = (
            tuple(int(n) for n in dims.split("x")[:-1])
            for dims in re.findall(r"tensor<([0-9x]+f32)>", line)
        )
        flops += 2 * round(np.sqrt(np.prod(left) * np.prod(right) * np.prod(out)))
    assert flops == optim.polar_flops(*shape, schedule, method)


@pytest.mark.parametrize("compute_dtype", [jnp.float32, jnp.float16])
def test_symmetric_product_is_used_where_the_result_is_symmetric(compute_dtype):
    seen = []

    def symmetric(*args, **factors):
        seen.append(len(args) == 3)
        result = reference_product(*args, **factors)
        np.testing.assert_allclose(result, result.mT, atol=800 * float(jnp.finfo(result.dtype).eps))
        return result

    x = jax.random.normal(jax.random.key(0), (8, 40))
    got = optim.polar(
        x, optim.POLAR_EXPRESS_5, compute_dtype=compute_dtype, symmetric_product=symmetric
    )
    want = optim.polar(x, optim.POLAR_EXPRESS_5, compute_dtype=jnp.float32)
    np.testing.assert_allclose(got, want, atol=30 * float(jnp.finfo(compute_dtype).eps))
    # The Gram form has two visits with X X^T and five symmetric products each, and one visit with
    # X X^T and one. The five polynomials are sums, which a kernel must take itself.
    assert len(seen) == 2 * 6 + 2
    assert sum(seen) == 5


def test_low_rank_matrices_get_the_factor_of_their_range():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((12, 3)) @ rng.standard_normal((3, 20))
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    assert s[3] < 1e-12
    got = compiled_polar(
        jnp.asarray(x, jnp.float32), optim.POLAR_EXPRESS_8, compute_dtype=jnp.float32
    )
    # float32 noise of 1e-7 outside the range is raised by the product of slopes, about 3000.
    np.testing.assert_allclose(got, u[:, :3] @ vt[:3], atol=3e-3)


def test_padding_rows_columns_and_batch_changes_nothing():
    x = jax.random.normal(jax.random.key(5), (2, 6, 9))
    padded = jnp.pad(x, ((0, 1), (0, 2), (0, 5)))
    got = compiled_polar(padded, optim.POLAR_EXPRESS_5, compute_dtype=jnp.float32)
    alone = compiled_polar(x, optim.POLAR_EXPRESS_5, compute_dtype=jnp.float32)
    np.testing.assert_allclose(got[:2, :6, :9], alone, atol=1e-5)
    assert not np.any(got[2]) and not np.any(got[:, 6:]) and not np.any(got[..., 9:])


@pytest.mark.parametrize("shape", [(1, 12), (3, 40), (16, 16), (40, 3)])
@pytest.mark.parametrize(
    "schedule", [optim.turbo_muon(), optim.polar_express(4, lower=1e-2, precondition="aol")]
)
def test_aol_preconditioning_gives_near_unit_singular_values_of_the_right_sign(shape, schedule):
    x = jax.random.normal(jax.random.key(6), shape)
    got = np.asarray(compiled_polar(x, schedule, compute_dtype=jnp.float32), np.float64)
    values = np.linalg.svd(got, compute_uv=False)
    np.testing.assert_allclose(values, np.ones(min(shape)), atol=0.15)
    # The factor of a rescaled matrix, so near the exact one and far from its negative.
    alignment = np.sum(got * exact_polar(x)) / min(shape)
    assert alignment > 0.7


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), scale=st.floats(1e-12, 1e12), is_tall=st.booleans())
def test_factor_commutes_with_scale_transposition_and_rotation(seed, scale, is_tall):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((12, 7) if is_tall else (7, 12)).astype(np.float32)
    rotation = np.linalg.qr(rng.standard_normal((x.shape[0], x.shape[0])))[0].astype(np.float32)
    factor = functools.partial(
        compiled_polar, schedule=optim.POLAR_EXPRESS_5, compute_dtype=jnp.float32
    )
    base = factor(jnp.asarray(x))
    np.testing.assert_allclose(factor(jnp.asarray(x * np.float32(scale))), base, atol=1e-4)
    np.testing.assert_allclose(factor(jnp.asarray(x.T)).T, base, atol=1e-4)
    np.testing.assert_allclose(factor(jnp.asarray(rotation @ x)), rotation @ base, atol=1e-3)


def test_wrong_inputs_raise():
    with pytest.raises(ValueError, match=r"got float32 with shape \(3,\)"):
        optim.polar(jnp.ones(3), optim.POLAR_EXPRESS_5)
    with pytest.raises(ValueError, match="method must be"):
        optim.polar(jnp.ones((3, 3)), optim.POLAR_EXPRESS_5, method="svd")


def test_bfloat16_compute_keeps_the_input_dtype():
    x = jax.random.normal(jax.random.key(3), (8, 24))
    got = compiled_polar(x, optim.POLAR_EXPRESS_8, compute_dtype=jnp.bfloat16)
    assert got.dtype == jnp.float32
    # Rounding x to bfloat16 (2^-9) turns its factor by up to 2 cond(x), here 2 x 3, times that.
    error = np.linalg.norm(got - exact_polar(x)) / np.linalg.norm(exact_polar(x))
    np.testing.assert_array_less(error, 6 * 2.0**-9)


def test_visits_cut_the_rows_of_the_gram_form():
    x = jax.random.normal(jax.random.key(0), (8, 24))
    schedule = optim.newton_schulz(5)
    factors = [
        optim.polar(x, schedule, compute_dtype="float32", method="gram", visits=visits)
        for visits in ((1, 1, 1, 1, 1), (2, 3), None)
    ]
    for factor in factors[1:]:
        np.testing.assert_allclose(factor, factors[0], atol=1e-4)
    assert np.any(np.asarray(factors[0]) != np.asarray(factors[1]))


@pytest.mark.parametrize(
    ("method", "visits"), [("direct", (5,)), ("gram", (2, 2)), ("gram", (0, 5))]
)
def test_visits_that_do_not_fit_are_refused(method, visits):
    with pytest.raises(ValueError, match="cut the 5 rows"):
        optim.polar(jnp.ones((2, 3)), optim.newton_schulz(5), method=method, visits=visits)
