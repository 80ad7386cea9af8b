"""One product in FP8 against its recipe written out in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import quantize
from pallas_kernels.quantize import reference
from pallas_kernels.quantize.dot import quantized_dot

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
RECIPES = ("fp8", "fp8_float32_scales", "fp8_per_tensor")
ROWS, WIDTH, OUT = 12, 200, 136  # two blocks of every width, the last one narrow


def make_inputs(dtype=np.float32):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in ((2, ROWS, WIDTH), (WIDTH, OUT))]
    arrays.append(rng.standard_normal((2, ROWS, OUT)))
    return [jnp.asarray(x, dtype) for x in arrays]


@functools.partial(jit, static_argnums=(0, 1))
def with_gradients(precision, transpose_w, x, w, dy):
    recipe = quantize.RECIPES[precision]
    w = w.T if transpose_w else w
    dot = functools.partial(quantized_dot, recipe=recipe, transpose_w=transpose_w)
    y, pullback = jax.vjp(dot, x, w)
    dx, dw = pullback(dy)
    return y, dx, dw.T if transpose_w else dw


def written_out(precision, x, w, dy):
    recipe = quantize.RECIPES[precision]

    def rounded(x, block):
        found = reference.quantize(x, block, recipe.scale)
        return np.asarray(quantize.dequantize(found, jnp.float32), np.float64)

    x, w = rounded(x, recipe.rows), rounded(w, recipe.weights)
    dw = np.einsum("btk,btn->kn", x, np.float64(dy))
    return x @ w, rounded(dy, recipe.rows) @ w.T, dw


@pytest.mark.parametrize("transpose_w", [False, True])
@pytest.mark.parametrize("precision", RECIPES)
def test_product_and_gradients_are_those_of_the_recipe(precision, transpose_w):
    inputs = make_inputs()
    got = with_gradients(precision, transpose_w, *inputs)
    for one, want in zip(got, written_out(precision, *inputs), strict=True):
        # A quotient by a float32 scale may be rounded the other way: 2^-4 of a few numbers.
        limit = 1e-3 if precision == "fp8_float32_scales" else 1e-6
        assert np.linalg.norm(np.float64(one) - want) < limit * np.linalg.norm(want)


def test_errors_stay_within_the_bound_of_the_format():
    """Each side errs by at most 2^-4 of each number, and bfloat16 rounds the sum by 2^-8 of it.

    Below 2^-6 of a scale the step no longer shrinks: 2^-10 of the largest over 128 there.
    """
    inputs = make_inputs(jnp.bfloat16)
    y, dx, dw = with_gradients("fp8", False, *inputs)
    x, w, dy = (np.float64(a) for a in inputs)

    def most(a):  # what FP8 may make of |a|
        return np.maximum(2**-4 * np.abs(a), np.abs(a).max() * 2.0**-17)

    def bound(a, b):
        both = np.abs(a) @ most(b) + most(a) @ np.abs(b) + most(a) @ most(b)
        return both + 2**-8 * np.abs(a) @ np.abs(b)

    assert (np.abs(np.float64(y) - x @ w) <= bound(x, w)).all()
    assert (np.abs(np.float64(dx) - dy @ w.T) <= bound(dy, w.T)).all()
    x, dy = x.reshape(-1, WIDTH), dy.reshape(-1, OUT)
    of_dw = most(x.T) @ np.abs(dy) + 2**-8 * np.abs(x.T) @ np.abs(dy)
    assert (np.abs(np.float64(dw) - x.T @ dy) <= of_dw).all()
    # The bound of one product is no looser than a format of half the digits would need.
    assert np.abs(np.float64(y) - x.reshape(2, ROWS, -1) @ w).max() > 2**-6


def test_backward_keeps_rows_in_one_byte():
    x, w, _ = (jax.ShapeDtypeStruct(a.shape, jnp.bfloat16) for a in make_inputs())
    dot = functools.partial(quantized_dot, recipe=quantize.RECIPES["fp8"])
    kept = jax.eval_shape(lambda x, w: jax.vjp(dot, x, w)[1], x, w)
    found = {(leaf.shape, leaf.dtype.name) for leaf in jax.tree.leaves(kept)}
    assert found == {
        ((2, ROWS, WIDTH), "float8_e4m3fn"),
        ((2, ROWS, 2), "float32"),
        ((WIDTH, OUT), "bfloat16"),
    }


def test_wrong_arguments_are_named():
    x, w, _ = make_inputs()
    recipe = quantize.RECIPES["fp8"]
    with pytest.raises(ValueError, match=r"w \(N, K\)"):
        quantized_dot(x, w, recipe, transpose_w=True)
    with pytest.raises(ValueError, match="bfloat16"):
        quantized_dot(x, w.astype(jnp.bfloat16), recipe)
