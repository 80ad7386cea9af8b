"""The routed experts in FP8 against their recipe written out in float64, pair by pair."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import pallas_kernels
from pallas_kernels import hopper, quantize
from pallas_kernels.bench import moe as bench_moe
from pallas_kernels.moe_mlp import cases
from pallas_kernels.quantize import reference

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

NAMES = ("y", "dx", "dw_gate_up", "dw_down", "dweights")
# Two blocks of every width, the last one narrow; 3 of 24 experts have no token.
CASE = cases.Case("blocks", 24, 200, 136, 24, 2, concentration=1.0)
RECIPES = ("fp8_store", "fp8", "fp8_float32_scales", "fp8_per_tensor")


@functools.partial(jit, static_argnums=0)
def with_gradients(precision, x, w_gate_up, w_down, ids, weights, dy):
    def layer(x, w_gate_up, w_down, weights):
        return pallas_kernels.moe_mlp(x, w_gate_up, w_down, ids, weights, precision=precision)

    y, pullback = jax.vjp(layer, x, w_gate_up, w_down, weights)
    return y, *pullback(dy)


def rounded(x, block, recipe):
    """The numbers that FP8 stands for."""
    found = reference.quantize(jnp.asarray(x, jnp.float32), block, recipe.scale)
    return np.asarray(quantize.dequantize(found, jnp.float32), np.float64)


def written_out(precision, x, w_gate_up, w_down, ids, weights, dy):
    """The recipe in float64; rows of all experts are rounded in the order of the layer."""
    recipe = quantize.RECIPES[precision]
    rows = functools.partial(rounded, block=recipe.rows, recipe=recipe)
    in_products = rows if recipe.has_products else lambda x: x
    pair = np.argsort(ids.reshape(-1), kind="stable")
    expert, token = ids.reshape(-1)[pair], pair // ids.shape[1]
    x, w_gate_up, w_down, weights, dy = (
        np.asarray(a, np.float64) for a in (x, w_gate_up, w_down, weights, dy)
    )
    merged = w_gate_up.reshape(len(w_gate_up), -1, x.shape[1])
    weight = weights.reshape(-1)[pair][:, None]
    up_w, down_w = merged, w_down
    if recipe.has_products:
        up_w, down_w = (rounded(w, recipe.weights, recipe) for w in (merged, w_down))

    h = np.einsum("md,mhd->mh", in_products(x)[token], up_w[expert])
    y_M = np.einsum("mf,mfd->md", in_products(swiglu(h)[0]), down_w[expert])
    y, dx = np.zeros_like(x), np.zeros_like(x)
    np.add.at(y, token, weight * y_M)

    act, dgate, dup = swiglu(rows(h))
    dact = np.einsum("md,mfd->mf", in_products(dy)[token], down_w[expert])
    dh = np.concatenate([weight * dact * dgate, weight * dact * dup], axis=1)
    np.add.at(dx, token, np.einsum("mh,mhd->md", in_products(dh), up_w[expert]))
    dw_gate_up, dw_down = np.zeros_like(merged), np.zeros_like(w_down)
    np.add.at(dw_gate_up, expert, np.einsum("mh,md->mhd", dh, rows(x)[token]))
    np.add.at(dw_down, expert, np.einsum("mf,md->mfd", weight * act, dy[token]))
    dweights = np.zeros(weights.size)
    dweights[pair] = (dact * act).sum(axis=1)
    return y, dx, dw_gate_up.reshape(w_gate_up.shape), dw_down, dweights.reshape(weights.shape)


def swiglu(h):
    """The activation and its derivatives in both halves."""
    gate, up = np.split(h, 2, axis=1)
    sigmoid = 1 / (1 + np.exp(-gate))
    return gate * sigmoid * up, up * sigmoid * (1 + gate * (1 - sigmoid)), gate * sigmoid


def relative(got, want):
    return np.linalg.norm(np.float64(got) - want) / np.linalg.norm(want)


@pytest.mark.slow
@pytest.mark.parametrize(
    "precision",
    [*RECIPES[:2], *(pytest.param(one, marks=pytest.mark.long) for one in RECIPES[2:])],
)
def test_output_and_gradients_are_those_of_the_recipe(precision):
    inputs = cases.make_inputs(CASE)
    assert len(np.unique(inputs[3])) < CASE.num_experts
    got = with_gradients(precision, *inputs)
    # Sums in another order round some numbers between two values the other way: 2^-4 of those.
    for name, x, y in zip(NAMES, got, written_out(precision, *inputs), strict=True):
        assert relative(x, y) < 3e-3, name


@pytest.mark.long
def test_errors_are_those_of_the_format():
    """Rounding errs evenly by up to 2^-4: 3.6 % of a norm, and 5.1 % of a product of two.

    swiglu, itself a product, doubles the error of h. With its own rounding and that of w_down, y
    errs by 11.4 %. dx passes one more rounding and errs by 14.4 %.
    """
    inputs = cases.make_inputs(CASE)
    exact = written_out("fp8_store", *inputs)[0]
    y, dx, *_ = with_gradients("fp8", *inputs)
    plain = with_gradients("full", *inputs)
    assert 0.01 < relative(y, exact) < 0.114
    assert 0.01 < relative(dx, np.float64(plain[1])) < 0.144


@pytest.mark.long
def test_what_is_only_kept_changes_no_bit_of_the_output():
    x, *others = cases.make_inputs(CASE)
    inputs = jnp.asarray(x, jnp.bfloat16), *others[:-1], jnp.asarray(others[-1], jnp.bfloat16)
    plain, stored = (with_gradients(name, *inputs) for name in ("full", "fp8_store"))
    np.testing.assert_array_equal(stored[0], plain[0])
    for name, x, y in zip(NAMES[1:], stored[1:], plain[1:], strict=True):
        assert 1e-4 < relative(x, np.float64(y)) < 0.1, name


def test_halves_of_what_is_kept_per_token_at_kanana_2_widths():
    case = next(case for case in cases.CASES if case.name == "kanana_2_30b")
    hidden, rows, width = case.hidden, case.top_k, 2 * case.width
    values = hidden + rows * width
    for precision in ("fp8_store", "fp8"):
        layer = functools.partial(pallas_kernels.moe_mlp, precision=precision)
        kept = bench_moe.kept_bytes_per_token(layer, case)
        # Two integers for each row; E group sizes are small next to them.
        assert values * (1 + 4 / 128) + rows * 8 <= kept < 11_700
    assert bench_moe.kept_bytes_per_token(pallas_kernels.moe_mlp, case) > 1.9 * kept


def test_an_outlier_reaches_other_tokens_only_where_they_share_its_scale():
    x, *others = cases.make_inputs(CASE)
    loud = x.copy()
    loud[3, 5] = 1e4
    for precision, is_alone in (("fp8", True), ("fp8_per_tensor", False)):
        quiet, found = (with_gradients(precision, one, *others)[0] for one in (x, loud))
        assert np.isfinite(found).all() and (found[3] != quiet[3]).any()
        same = np.delete(np.asarray(found == quiet), 3, axis=0)
        assert same.all() if is_alone else (~same).mean() > 0.9


@pytest.mark.parametrize("precision", ["fp8_store", "fp8"])
def test_zeros_and_denormals_give_zeros_and_what_is_not_finite_is_seen(precision):
    x, *others, dy = cases.make_inputs(CASE)
    for factor in (0.0, 1e-39):
        found = with_gradients(precision, np.float32(factor) * x, *others, np.zeros_like(dy))
        assert all(np.isfinite(one).all() and np.abs(one).max() < 1e-30 for one in found)
    bad = x.copy()
    bad[0, 0], bad[1, 0] = np.nan, np.inf
    y, dx, *_ = with_gradients(precision, bad, *others, dy)
    for one in (y, dx):
        is_lost = ~np.isfinite(np.asarray(one)).all(axis=1)
        assert is_lost[:2].all() and not is_lost[2:].any()


@pytest.mark.long
def test_few_rows_are_computed_as_many_are():
    """An answer does not depend on how many tokens are read at once."""
    inputs = cases.make_inputs(CASE._replace(num_tokens=3))[:-1]
    layer = functools.partial(pallas_kernels.moe_mlp, precision="fp8")
    got = jit(layer)(*inputs)
    many = [np.concatenate([a] * 8) for a in (inputs[0], *inputs[3:])]
    want = jit(layer)(many[0], *inputs[1:3], *many[1:])
    assert relative(got, np.float64(want[:3])) < 1e-5


@pytest.mark.parametrize("precision", RECIPES)
def test_is_traced_inside_shard_map_and_vmap(precision):
    x, *matrices, ids, weights, _ = cases.make_inputs(CASE)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(x, ids, weights, matrices):
        return (pallas_kernels.moe_mlp(x, *matrices, ids, weights, precision=precision) ** 2).sum()

    def on_parts(*args):
        return jax.lax.psum(loss(*args), "data")

    rows = P("data")
    specs = (rows, rows, rows, P())
    sharded = jax.shard_map(on_parts, mesh=mesh, in_specs=specs, out_specs=P())
    args = x, ids, weights, matrices
    found = jax.eval_shape(jax.grad(sharded, argnums=(0, 2, 3)), *args)
    assert [one.shape for one in jax.tree.leaves(found)] == [
        one.shape for one in (x, weights, *matrices)
    ]
    mapped = jax.vmap(jax.grad(loss), in_axes=(0, 0, 0, None))
    assert jax.eval_shape(mapped, *(a[None] for a in args[:3]), matrices).shape == (1, *x.shape)


@pytest.mark.long
def test_layer_and_gradients_lower_for_cuda_with_the_kernel_of_fp8(monkeypatch):
    monkeypatch.setattr(hopper, "why_not", lambda platform: None)
    shapes = (256, 256), (4, 2, 128, 256), (4, 128, 256)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    ids, weights = (jax.ShapeDtypeStruct((256, 2), dtype) for dtype in (jnp.int32, jnp.float32))

    def loss(x, w_gate_up, w_down, ids, weights):
        y = pallas_kernels.moe_mlp(x, w_gate_up, w_down, ids, weights, precision="fp8")
        return (y.astype(jnp.float32) ** 2).sum()

    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 4))).trace(*arrays, ids, weights)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # up, down, their gradients in rows; and two sums of outer products of bfloat16. Two passes of
    # SwiGLU. x, dy and, in both passes, two matrices are quantised. Rows are gathered four times.
    assert text.count("custom_call @mosaic_gpu") == 6 + 2 + 2 + 4 + 4
    # The kernel's four calls read both sides as FP8.
    calls = [line.rsplit(" : (", 1)[1] for line in text.splitlines() if "@mosaic_gpu" in line]
    assert sum(call.split(" -> ")[0].count("f8E4M3FN") == 2 for call in calls) == 4


def test_unknown_precisions_are_named():
    with pytest.raises(ValueError, match="full, fp8_store, fp8,"):
        pallas_kernels.moe_mlp(*cases.make_inputs(CASE)[:-1], precision="bf16")
