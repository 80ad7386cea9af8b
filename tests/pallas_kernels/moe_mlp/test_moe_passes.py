"""The passes around FP8 products against XLA's pieces: interpreted, lowered for CUDA, on a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.moe_mlp import activation, stages
from pallas_kernels.moe_mlp.gpu import dispatch
from pallas_kernels.quantize import RECIPES, dequantize, quantize

NUM_ROWS, WIDTH = 100, 256
KINDS = [("fp8", None), ("fp8", 0.5), ("fp8_float32_scales", None)]


def make_inputs(num_rows=NUM_ROWS, width=WIDTH):
    """h of many sizes with zeros and tiny numbers, the gradient of the activation, and weights."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((num_rows, 2 * width)).astype(np.float32)
    h *= np.exp2(rng.integers(-6, 4, (num_rows, 1)))
    h[3], h[4, :128], h[5, 7] = 0.0, 1e-30, 1e4
    dact = rng.standard_normal((num_rows, width))
    weight = rng.uniform(size=num_rows).astype(np.float32)
    return jnp.asarray(h, jnp.bfloat16), jnp.asarray(dact, jnp.bfloat16), jnp.asarray(weight)


def pieces_forward(h, recipe, clamp):
    to_rows = functools.partial(quantize, scale=recipe.scale, implementation="xla")
    act = activation.swiglu(*stages.split(h), clamp).astype(h.dtype)
    return to_rows(h), to_rows(act)


def pieces_backward(dact, h, weight, recipe, clamp):
    arrays = dact, dequantize(h, dact.dtype), weight
    dh, weighted, dweight = stages.activation_backward(*arrays, clamp)
    return dh, quantize(dh, scale=recipe.scale, implementation="xla"), weighted, dweight


def compare(got, want, most_off):
    """exp and quotients sometimes round differently: to the next 16-bit or 8-bit value."""
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        one, other = (np.asarray(x, np.float32) for x in (one, other))
        np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
        np.testing.assert_allclose(one, other, rtol=0.13, atol=1e-4)
        is_off = ~np.isclose(one, other, rtol=1e-5, atol=1e-5, equal_nan=True)
        assert is_off.mean() <= most_off


def check(precision, clamp, *, interpret, most_off):
    recipe = RECIPES[precision]
    h, dact, weight = make_inputs()
    options = dict(clamp=clamp, interpret=interpret)
    forward = jax.jit(functools.partial(dispatch.activate, recipe=recipe, **options))
    want = pieces_forward(h, recipe, clamp)
    compare(forward(h), want, most_off)
    backward = jax.jit(functools.partial(dispatch.activate_backward, recipe=recipe, **options))
    compare(
        backward(dact, want[0], weight),
        pieces_backward(dact, want[0], weight, recipe, clamp),
        most_off,
    )


@pytest.mark.parametrize(("precision", "clamp"), KINDS)
@pytest.mark.long
def test_interpreted_passes_are_the_pieces_and_have_no_races(precision, clamp, capfd):
    check(precision, clamp, interpret=True, most_off=1e-3)
    assert "RACE DETECTED" not in capfd.readouterr().out


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "clamp"), KINDS)
def test_passes_are_the_pieces_on_a_gpu(precision, clamp):
    check(precision, clamp, interpret=False, most_off=1e-2)


def gathered(dtype, interpret):
    x = np.random.default_rng(0).standard_normal((40, 256))
    x = jnp.asarray(x, jnp.float32).astype(dtype)
    index = np.random.default_rng(1).integers(0, 40, 100)
    got = jax.jit(functools.partial(dispatch.take_rows, interpret=interpret))(x, index)
    np.testing.assert_array_equal(got.astype(jnp.float32), x[index].astype(jnp.float32))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float8_e4m3fn])
def test_interpreted_rows_are_those_of_the_index(dtype, capfd):
    gathered(dtype, interpret=True)
    assert "RACE DETECTED" not in capfd.readouterr().out


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float8_e4m3fn, jnp.float32])
def test_rows_are_those_of_the_index_on_a_gpu(dtype):
    gathered(dtype, interpret=False)


@pytest.mark.long
def test_passes_lower_for_cuda():
    num_rows, width, recipe = 49_152, 768, RECIPES["fp8"]
    h = jax.ShapeDtypeStruct((num_rows, 2 * width), jnp.bfloat16)
    dact = jax.ShapeDtypeStruct((num_rows, width), jnp.bfloat16)
    weight = jax.ShapeDtypeStruct((num_rows,), jnp.float32)
    x, index = (
        jax.ShapeDtypeStruct((8192, 2048), jnp.bfloat16),
        jax.ShapeDtypeStruct((num_rows,), jnp.int32),
    )

    def passes(h, dact, weight, x, index):
        kept, act = dispatch.activate(h, recipe, clamp=7.0)
        made = dispatch.activate_backward(dact, kept, weight, recipe, clamp=7.0)
        return act, made, dispatch.take_rows(x, index)

    traced = jax.jit(passes).trace(h, dact, weight, x, index)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == 3


def test_passes_are_chosen_only_where_they_can_run(monkeypatch):
    monkeypatch.setattr(dispatch.hopper, "why_not", lambda platform: None)
    fits = functools.partial(dispatch.fits_activation, platform="gpu")
    assert fits(256, jnp.bfloat16, RECIPES["fp8"])
    assert not fits(200, jnp.bfloat16, RECIPES["fp8"])
    assert not fits(256, jnp.float32, RECIPES["fp8"])
    assert not fits(256, jnp.bfloat16, RECIPES["fp8_per_tensor"])
    x = jax.ShapeDtypeStruct((8, 256), jnp.bfloat16)
    assert dispatch.fits_gather(x, "gpu")
    assert not dispatch.fits_gather(jax.ShapeDtypeStruct((8, 200), jnp.bfloat16), "gpu")
    assert not dispatch.fits_gather(jax.ShapeDtypeStruct((8, 2**14), jnp.bfloat16), "gpu")
