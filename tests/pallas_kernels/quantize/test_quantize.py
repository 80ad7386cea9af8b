"""Blocks of E4M3 against their definition, their bounds, and numbers that are not finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import quantize as q
from pallas_kernels.quantize import cases, formats, reference

SCALES = ("power_of_two", "float32")
# Compiling costs more than running these, and rounding does not depend on the compiler's effort.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
quantize = jit(q.quantize, static_argnames=("block", "scale"))
dequantize = jit(q.dequantize, static_argnums=1)
transpose = jit(q.transpose)


def same(got, want):
    np.testing.assert_array_equal(np.float32(got.values), np.float32(want.values))
    np.testing.assert_array_equal(np.asarray(got.scales), np.asarray(want.scales))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("case", cases.SMALL_CASES, ids=lambda case: case.name)
def test_values_and_scales_are_those_of_the_definition(case, scale):
    (x,) = cases.make_inputs(case)
    got = quantize(x, block=case.block, scale=scale)
    want = reference.quantize(x, case.block, scale)
    if scale == "power_of_two":
        return same(got, want)
    # A quotient that lies between two values may be rounded either way.
    np.testing.assert_allclose(got.scales, want.scales, rtol=2**-23)
    differs = np.float32(got.values) != np.float32(want.values)
    assert (differs & ~np.isnan(np.float32(got.values))).mean() < 0.01


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("case", cases.SMALL_CASES, ids=lambda case: case.name)
def test_errors_stay_within_the_bound_and_what_is_not_finite_is_seen(case, scale):
    (x,) = cases.make_inputs(case)
    quantized = quantize(x, block=case.block, scale=scale)
    back = np.asarray(dequantize(quantized, jnp.float32), np.float64)
    np.testing.assert_array_equal(np.isnan(back), ~np.isfinite(x))
    ones = formats.Quantized(jnp.ones_like(quantized.values), quantized.scales, case.block)
    each = np.broadcast_to(dequantize(ones, jnp.float32), x.shape)
    wide = np.where(np.isfinite(x), np.float64(x), 0.0)
    rounding = 2**-4 + (2**-22 if scale == "float32" else 0)
    bound = np.maximum(rounding * np.abs(wide), each * 2**-10) + formats.SMALLEST_NUMBER
    assert (np.abs(np.nan_to_num(back) - wide) <= bound).all()
    np.testing.assert_array_equal(back[wide == 0][np.isfinite(x[wide == 0])], 0.0)
    assert (np.asarray(quantized.scales) >= np.finfo(np.float32).tiny).all()


@settings(max_examples=50, deadline=None)
@given(st.floats(2.0**-100, 2.0**120, width=32), st.booleans())
def test_a_scale_is_the_smallest_power_of_two_that_holds_its_block(amax, at_the_edge):
    amax = np.float32(2.0 ** np.floor(np.log2(amax)) * 1.75) if at_the_edge else np.float32(amax)
    x = np.zeros((1, 128), np.float32)
    x[0, 7] = -amax
    found = quantize(x)
    scale = np.float64(found.scales[0, 0])
    assert np.log2(scale) % 1 == 0
    assert 224 * scale < amax <= 448 * scale


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_reading_powers_of_two_is_exact_and_quantising_again_changes_nothing(dtype):
    x = np.random.default_rng(0).standard_normal((4, 300)).astype(np.float32)
    once = quantize(x)
    read = dequantize(once, dtype)
    np.testing.assert_array_equal(np.float64(read), np.float64(dequantize(once, jnp.float32)))
    again = dequantize(quantize(read), dtype)
    np.testing.assert_array_equal(np.float32(again), np.float32(read))


def test_compiled_code_rounds_too():
    """Compilers may drop a conversion to fewer digits and back."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 256)), jnp.bfloat16)
    compiled = jax.jit(lambda x: q.dequantize(q.quantize(x)))(x)
    want = dequantize(quantize(x), jnp.bfloat16)
    np.testing.assert_array_equal(np.float32(compiled), np.float32(want))
    assert (compiled != x).mean() > 0.5


@pytest.mark.parametrize("shape", [(256, 128), (200, 130), (5, 12)])
def test_a_transposed_copy_is_exact_up_to_underflow(shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    x *= 2.0 ** rng.integers(-3, 4, (shape[0], 1))
    rows = quantize(x)
    turned = transpose(rows)
    assert turned.scales.shape == (shape[1], -(-shape[0] // 128))
    want = np.asarray(dequantize(rows, jnp.float32)).T
    got = np.asarray(dequantize(turned, jnp.float32))
    each = np.repeat(turned.scales, 128, axis=1)[:, : shape[0]]
    is_normal = np.abs(want) >= each * 2.0**-6
    assert is_normal.mean() > 0.9
    np.testing.assert_array_equal(got[is_normal], want[is_normal])
    assert (np.abs(got - want) <= each * 2.0**-10).all()


@pytest.mark.long
def test_transposed_squares_keep_every_bit():
    x = np.random.default_rng(0).standard_normal((2, 200, 130)).astype(np.float32)
    squares = quantize(x, block=q.SQUARE_BLOCK)
    turned = transpose(squares)
    same(turned, quantize(x.swapaxes(1, 2), block=q.SQUARE_BLOCK))
    with pytest.raises(ValueError, match=r"got \(128, 1\)"):
        q.transpose(q.quantize(x, q.COLUMN_BLOCK))


def test_rows_are_taken_with_their_scales():
    x = np.random.default_rng(0).standard_normal((6, 200)).astype(np.float32)
    index = np.array([3, 3, 0])
    for block in (q.ROW_BLOCK, None):
        taken = quantize(x, block=block).take_rows(index)
        want = dequantize(quantize(x, block=block), jnp.bfloat16)[index]
        np.testing.assert_array_equal(np.float32(dequantize(taken, jnp.bfloat16)), np.float32(want))


def test_what_is_no_matrix_and_unknown_words_are_refused():
    with pytest.raises(ValueError, match="floating-point numbers"):
        q.quantize(np.zeros((3,), np.float32))
    with pytest.raises(ValueError, match="int32"):
        q.quantize(np.zeros((3, 3), np.int32))
    with pytest.raises(ValueError, match=r"got \(2, 2\)"):
        q.quantize(np.zeros((3, 3), np.float32), (2, 2))
    with pytest.raises(ValueError, match="'e8m0'"):
        q.quantize(np.zeros((3, 3), np.float32), scale="e8m0")
    with pytest.raises(ValueError, match="full, fp8_store"):
        q.recipe("fp4")
