"""Experts' FP8 matrices that were made before: the layer's results are the same, bit for bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels import hopper
from pallas_kernels.moe_mlp import cases
from pallas_kernels.moe_mlp.matrices import quantize_experts

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

CASE = cases.Case("blocks", 24, 200, 136, 8, 2, concentration=1.0)


@functools.partial(jit, static_argnums=0)
def with_gradients(precision, x, w_gate_up, w_down, ids, weights, dy, matrices):
    def layer(x, w_gate_up, w_down, weights):
        options = dict(precision=precision, matrices=matrices)
        return pallas_kernels.moe_mlp(x, w_gate_up, w_down, ids, weights, **options)

    y, pullback = jax.vjp(layer, x, w_gate_up, w_down, weights)
    return y, *pullback(dy)


@functools.partial(jit, static_argnums=2)
def made_of(w_gate_up, w_down, precision="fp8"):
    return quantize_experts(w_gate_up, w_down, jnp.float32, precision=precision)


@pytest.mark.parametrize("precision", ["fp8", "fp8_float32_scales"])
@pytest.mark.long
def test_results_are_those_of_matrices_made_at_every_use(precision):
    inputs = cases.make_inputs(CASE)
    got = with_gradients(precision, *inputs, made_of(*inputs[1:3], precision))
    want = with_gradients(precision, *inputs, None)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.abs(one).max() > 0


def test_the_layer_multiplies_what_it_was_given():
    inputs = cases.make_inputs(CASE)
    y, *_ = with_gradients("fp8", *inputs, made_of(*inputs[1:3]))
    got, *_ = with_gradients("fp8", *inputs, made_of(*(2.0 * w for w in inputs[1:3])))
    assert np.linalg.norm(got) > 3 * np.linalg.norm(y)


@pytest.mark.parametrize("precision", ["full", "fp8_store", "fp8_per_tensor"])
def test_none_are_made_where_no_product_reads_squares(precision):
    assert quantize_experts(*cases.make_inputs(CASE)[1:3], jnp.float32, precision=precision) is None


@pytest.mark.parametrize(
    ("precision", "num_experts", "words"),
    [("fp8", 4, r"\(8, 272, 200\).* got 'fp8' and"), ("full", 8, "got 'full' and")],
)
def test_matrices_of_other_weights_are_refused(precision, num_experts, words):
    *arrays, _ = cases.make_inputs(CASE)
    made = jax.eval_shape(made_of, *(w[:num_experts] for w in arrays[1:3]))
    with pytest.raises(ValueError, match=words):
        pallas_kernels.moe_mlp(*arrays, precision=precision, matrices=made)


@pytest.mark.long
def test_kernels_find_both_orientations_and_transpose_none(monkeypatch):
    monkeypatch.setattr(hopper, "why_not", lambda platform: None)
    matrices = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((4, 2, 128, 256), (4, 128, 256))]
    x = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16)
    ids, weights = (jax.ShapeDtypeStruct((256, 2), dtype) for dtype in (jnp.int32, jnp.float32))
    quantise = functools.partial(quantize_experts, dtype=jnp.bfloat16)
    made = jax.eval_shape(quantise, *matrices)
    assert [matrix.transposed.values.shape for matrix in made] == [(4, 256, 256), (4, 256, 128)]

    def loss(x, w_gate_up, w_down, weights, ids, made):
        options = dict(precision="fp8", matrices=made)
        y = pallas_kernels.moe_mlp(x, w_gate_up, w_down, ids, weights, **options)
        return (y.astype(jnp.float32) ** 2).sum()

    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).trace(x, *matrices, weights, ids, made)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # Six products, two passes of SwiGLU, x and dy quantised, rows of both gathered in both widths.
    assert text.count("custom_call @mosaic_gpu") == 6 + 2 + 2 + 4
    is_transposed = [line for line in text.splitlines() if "stablehlo.transpose" in line]
    assert not [line for line in is_transposed if "4x" in line and "f8E4M3FN" in line]
