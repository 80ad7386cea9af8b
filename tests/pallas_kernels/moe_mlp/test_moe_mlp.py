"""The routed experts against a dense float64 evaluation of every expert on every token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import pallas_kernels
from pallas_kernels.bench import moe as bench_moe
from pallas_kernels.moe_mlp import FEW_ROWS_PER_EXPERT, cases

# Compiling costs more than running these, and rounding does not depend on the compiler's effort.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

NAMES = ("y", "dx", "dw_gate_up", "dw_down", "dweights")
CASE = cases.SMALL_CASES[0]


def dense(x, w_gate_up, w_down, ids, weights, clamp=None):
    hidden = jnp.einsum("td,eafd->aetf", x, w_gate_up)
    if clamp is not None:
        hidden = jnp.stack([jnp.clip(hidden[0], max=clamp), jnp.clip(hidden[1], -clamp, clamp)])
    out = jnp.einsum("etf,efd->etd", jax.nn.silu(hidden[0]) * hidden[1], w_down)
    token = jnp.arange(ids.shape[0])
    return sum(weights[:, k, None] * out[ids[:, k], token] for k in range(ids.shape[1]))


@functools.partial(jit, static_argnums=0)
def with_gradients(layer, x, w_gate_up, w_down, ids, weights, dy):
    def differentiable(x, w_gate_up, w_down, weights):
        return layer(x, w_gate_up, w_down, ids, weights)

    y, pullback = jax.vjp(differentiable, x, w_gate_up, w_down, weights)
    return y, *pullback(dy)


def exact(inputs, layer=dense):
    """The dense evaluation in float64 of inputs of any dtype."""
    wide = [np.asarray(a, None if a.dtype == jnp.int32 else np.float64) for a in inputs]
    with jax.enable_x64(True):
        return [np.asarray(a) for a in with_gradients(layer, *wide)]


def cast_inputs(case, dtype):
    x, w_gate_up, w_down, ids, weights, dy = cases.make_inputs(case)
    x, w_gate_up, w_down, dy = (jnp.asarray(a, dtype) for a in (x, w_gate_up, w_down, dy))
    return x, w_gate_up, w_down, ids, weights, dy


def error(got, want):
    return np.linalg.norm(np.float64(got) - want)


@pytest.mark.parametrize("case", cases.SMALL_CASES, ids=lambda case: case.name)
def test_output_and_gradients_are_those_of_the_dense_evaluation(case):
    inputs = cast_inputs(case, jnp.float32)
    got = with_gradients(pallas_kernels.moe_mlp, *inputs)
    for name, x, y in zip(NAMES, got, exact(inputs), strict=True):
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * np.abs(y).max(), err_msg=name)


def test_what_is_clipped_is_so_in_both_passes_and_has_no_gradient():
    clamp, inputs = 0.4, cast_inputs(CASE, jnp.float32)
    clipped = functools.partial(dense, clamp=clamp)
    gate, up = np.einsum("td,eafd->aetf", *inputs[:2])
    for side in (gate > clamp, up > clamp, up < -clamp):
        assert 0.1 < side.mean() < 0.9
    got = with_gradients(functools.partial(pallas_kernels.moe_mlp, clamp=clamp), *inputs)
    for name, x, y in zip(NAMES, got, exact(inputs, clipped), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * np.abs(y).max(), err_msg=name)


@pytest.mark.long
def test_a_clamp_that_nothing_reaches_changes_no_bit():
    inputs = cast_inputs(CASE, jnp.bfloat16)
    wide = with_gradients(functools.partial(pallas_kernels.moe_mlp, clamp=1e4), *inputs)
    for x, y in zip(wide, with_gradients(pallas_kernels.moe_mlp, *inputs), strict=True):
        np.testing.assert_array_equal(x, y)


def test_reference_products_give_the_same():
    inputs = cast_inputs(CASE, jnp.float32)
    layer = functools.partial(pallas_kernels.moe_mlp, implementation="reference")
    want = with_gradients(pallas_kernels.moe_mlp, *inputs)
    for x, y in zip(with_gradients(layer, *inputs), want, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bits_err_at_most_twice_as_much_as_the_plain_layer_and_less_in_the_router(dtype):
    inputs = cast_inputs(CASE, dtype)
    plain_inputs = *inputs[:4], inputs[4].astype(dtype), inputs[5]
    got = with_gradients(pallas_kernels.moe_mlp, *inputs)
    plain = with_gradients(dense, *plain_inputs)
    found = zip(NAMES, got, plain, exact(inputs), exact(plain_inputs), strict=True)
    for name, x, y, want, plain_want in found:
        assert x.dtype == (jnp.float32 if name == "dweights" else dtype)
        limit = 1 if name == "dweights" else 2
        assert error(x, want) <= limit * error(y, plain_want), name


def test_repeats_are_equal_bit_for_bit():
    inputs = cast_inputs(CASE, jnp.bfloat16)
    first, again = (with_gradients(pallas_kernels.moe_mlp, *inputs) for _ in range(2))
    for x, y in zip(first, again, strict=True):
        np.testing.assert_array_equal(x, y)


def test_float32_weights_get_unrounded_gradients():
    x, w_gate_up, w_down, *others = cast_inputs(CASE, jnp.bfloat16)
    low = with_gradients(pallas_kernels.moe_mlp, x, w_gate_up, w_down, *others)
    wide_weights = w_gate_up.astype(jnp.float32), w_down.astype(jnp.float32)
    wide = with_gradients(pallas_kernels.moe_mlp, x, *wide_weights, *others)
    np.testing.assert_array_equal(wide[0], low[0])
    for x, y in zip(wide[2:4], low[2:4], strict=True):
        assert x.dtype == jnp.float32 and (x != y).any()
        np.testing.assert_array_equal(x.astype(jnp.bfloat16), y)


def test_backward_pass_keeps_less_than_23_kb_per_token_at_kanana_2_widths():
    case = next(case for case in cases.CASES if case.name == "kanana_2_30b")
    kept = bench_moe.kept_bytes_per_token(pallas_kernels.moe_mlp, case)
    assert 2 * case.hidden + 4 * case.top_k * case.width < kept < 23_000


@pytest.mark.long
def test_compiled_layers_do_not_keep_what_they_make_again():
    num_tokens, hidden, width, num_experts, top_k = 512, 64, 48, 8, 4
    shapes = (num_experts, 2, width, hidden), (num_experts, width, hidden)
    pairs = (jax.ShapeDtypeStruct((num_tokens, top_k), dtype) for dtype in (jnp.int32, jnp.float32))
    layer = *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes), *pairs

    def loss(x, layers):
        for w_gate_up, w_down, ids, weights in layers:
            x += pallas_kernels.moe_mlp(x, w_gate_up, w_down, ids, weights)
        return (x**2).sum()

    def temporary_bytes(num_layers):
        gradients = jit(jax.grad(loss, argnums=1, allow_int=True))
        x = jax.ShapeDtypeStruct((num_tokens, hidden), jnp.float32)
        compiled = gradients.lower(x, [layer] * num_layers).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    kept = num_tokens * (4 * hidden + 8 * top_k * width)
    # A layer that also keeps gathered rows, activations and outputs keeps five times as much.
    assert (temporary_bytes(4) - temporary_bytes(2)) / 2 < 2.5 * kept


@pytest.mark.long
def test_works_under_checkpoint_and_vmap():
    inputs = cast_inputs(CASE, jnp.float32)
    ids = jnp.asarray(inputs[3])

    def loss(x, ids):
        return (pallas_kernels.moe_mlp(x, *inputs[1:3], ids, inputs[4]) ** 2).sum()

    gradient = jax.grad(loss)
    want = jit(gradient)(inputs[0], ids), jit(gradient)(2 * inputs[0], ids[::-1])
    again = jit(jax.grad(jax.checkpoint(loss)))(inputs[0], ids)
    np.testing.assert_allclose(again, want[0], rtol=1e-6)
    both = jnp.stack([inputs[0], 2 * inputs[0]]), jnp.stack([ids, ids[::-1]])
    got = jit(jax.vmap(gradient))(*both)
    np.testing.assert_allclose(got, np.stack(want), rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_shard_map_sums_the_gradient_of_replicated_weights():
    x, w_gate_up, w_down, ids, weights, _ = cast_inputs(CASE, jnp.float32)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(w_gate_up, w_down, weights):
        return (pallas_kernels.moe_mlp(x, w_gate_up, w_down, ids, weights) ** 2).sum()

    def sharded_loss(w_gate_up, w_down, weights):
        def local(*args):
            return jax.lax.psum((pallas_kernels.moe_mlp(*args) ** 2).sum(), "data")

        specs = (P("data"), P(), P(), P("data"), P("data"))
        mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())
        return mapped(x, w_gate_up, w_down, ids, weights)

    gradients = [
        jit(jax.grad(f, argnums=(0, 1, 2)))(w_gate_up, w_down, weights)
        for f in (sharded_loss, loss)
    ]
    for got, want in zip(*gradients, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_wrong_arguments_are_named():
    x, w_gate_up, w_down, ids, weights, _ = cases.make_inputs(CASE)
    with pytest.raises(ValueError, match="w_down"):
        pallas_kernels.moe_mlp(x, w_gate_up, w_down[:, :-1], ids, weights)
    with pytest.raises(ValueError, match="must be integers"):
        pallas_kernels.moe_mlp(x, w_gate_up, w_down, ids.astype(np.float32), weights)


@pytest.mark.parametrize("clamp", [None, 0.4])
def test_few_rows_read_one_experts_matrices_each_and_give_the_same(clamp):
    case = next(case for case in cases.SMALL_CASES if case.name == "idle_experts")
    few = case._replace(num_tokens=3, concentration=4.0)
    *inputs, _ = cast_inputs(few, jnp.float32)
    assert inputs[3].size <= FEW_ROWS_PER_EXPERT * few.num_experts
    inputs[3] = jnp.asarray(inputs[3]).at[1, 0].set(few.num_experts)  # an expert of another device
    layer = functools.partial(pallas_kernels.moe_mlp, clamp=clamp)
    got = jit(layer)(*inputs)
    want = jit(functools.partial(layer, implementation="reference"))(*inputs)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    text = jax.jit(layer).lower(*inputs).as_text()
    assert "dot_general" not in text  # a product would copy the matrices
