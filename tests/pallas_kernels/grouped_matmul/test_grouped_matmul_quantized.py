"""Grouped products of FP8: read back, interpreted on the CPU, lowered for CUDA."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.grouped_matmul import cases, reference
from pallas_kernels.grouped_matmul.gpu import block_scaled, dispatch
from pallas_kernels.grouped_matmul.quantized import (
    grouped_matmul_quantized,
    grouped_matmul_quantized_choice,
)
from pallas_kernels.quantize import ROW_BLOCK, SQUARE_BLOCK, Quantized, dequantize, quantize

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
NUM_ROWS, WIDTH, OUT_WIDTH, NUM_GROUPS = 300, 256, 256, 4
CONFIG = block_scaled.Config(num_stages=3, band=2)
SIZES = (
    pytest.param((70, 0, 13, 195), id="empty-and-odd-and-rows-beyond"),
    pytest.param((1, 63, 65, 171), id="around-a-warpgroup"),
    pytest.param((0, 0, 0, 0), id="all-empty"),
)


def make_inputs(group_sizes, transpose_rhs, scale="power_of_two"):
    """Quantised rows and matrices whose scales differ from block to block, and sizes."""
    case = cases.Case("small", NUM_ROWS, WIDTH, OUT_WIDTH, NUM_GROUPS, group_sizes)
    lhs, rhs, _, sizes = cases.make_inputs(case)
    rng = np.random.default_rng(0)
    lhs *= np.exp2(rng.integers(-4, 5, (NUM_ROWS, 1)))
    lhs[:, 128:] *= np.exp2(rng.integers(-4, 5, (NUM_ROWS, 1)))
    rhs[:, :128] *= np.float32(4)
    rhs = rhs.swapaxes(1, 2) if transpose_rhs else rhs
    return quantize(lhs, scale=scale), quantize(rhs, SQUARE_BLOCK, scale=scale), sizes


def exact(lhs, rhs, sizes, transpose_rhs):
    arrays = dequantize(lhs, jnp.float32), dequantize(rhs, jnp.float32)
    kinds = dict(transpose_rhs=transpose_rhs, out_dtype=jnp.float32)
    return reference.matmul(*(jnp.nan_to_num(x) for x in arrays), sizes, **kinds)


@functools.partial(jit, static_argnames="transpose_rhs")
def interpreted(lhs, rhs, sizes, *, transpose_rhs):
    return dispatch.matmul_quantized(
        lhs,
        rhs,
        sizes,
        transpose_rhs=transpose_rhs,
        out_dtype=jnp.bfloat16,
        config=CONFIG,
        interpret=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group_sizes", "transpose_rhs", "scale"),
    [
        pytest.param(*SIZES[0].values, True, "power_of_two", marks=pytest.mark.long),
        pytest.param(*SIZES[1].values, False, "float32", marks=pytest.mark.long),
        (*SIZES[2].values, True, "power_of_two"),
    ],
)
def test_interpreted_kernel_agrees_and_has_no_races(group_sizes, transpose_rhs, scale, capfd):
    lhs, rhs, sizes = make_inputs(group_sizes, transpose_rhs, scale)
    # Values beyond the groups must not leak, not even as NaN * 0.
    used = sum(group_sizes)
    lhs = Quantized(lhs.values.at[used:].set(jnp.nan), lhs.scales, lhs.block)
    got = interpreted(lhs, rhs, sizes, transpose_rhs=transpose_rhs)
    want = exact(lhs, rhs, sizes, transpose_rhs)
    # One rounding to bfloat16; float32 sums of products that differ in size.
    np.testing.assert_allclose(
        got.astype(jnp.float32), want, rtol=2**-8, atol=1e-5 * (np.abs(want).max() + 1e-9)
    )
    assert "RACE DETECTED" not in capfd.readouterr().out


@pytest.mark.parametrize("transpose_rhs", [False, True])
def test_products_that_are_read_back_are_those_of_the_numbers(transpose_rhs):
    lhs, rhs, sizes = make_inputs((70, 0, 13, 195), transpose_rhs)
    product = functools.partial(grouped_matmul_quantized, transpose_rhs=transpose_rhs)
    got = jit(product)(lhs, rhs, sizes)
    assert got.dtype == jnp.bfloat16
    want = exact(lhs, rhs, sizes, transpose_rhs)
    scale = np.abs(want).max()
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2**-8, atol=1e-5 * scale)


def test_widths_that_differ_are_named():
    _, rhs, sizes = make_inputs((70, 0, 13, 195), True)
    wide = quantize(np.ones((NUM_ROWS, 2 * WIDTH), np.float32))
    with pytest.raises(ValueError, match="contracted width"):
        grouped_matmul_quantized(wide, rhs, sizes)


def abstract(num_rows, width, out_width, num_groups):
    """Shapes of quantised rows, of matrices (G, N, K), and of sizes."""
    lhs = jax.ShapeDtypeStruct((num_rows, width), jnp.bfloat16)
    rhs = jax.ShapeDtypeStruct((num_groups, out_width, width), jnp.bfloat16)
    quantized = [
        jax.eval_shape(functools.partial(quantize, block=block), x)
        for x, block in ((lhs, ROW_BLOCK), (rhs, SQUARE_BLOCK))
    ]
    return *quantized, jax.ShapeDtypeStruct((num_groups,), jnp.int32)


@pytest.mark.parametrize(
    ("shape", "transpose_rhs"),
    [
        pytest.param((49_152, 2048, 1536, 128), True, id="up"),
        pytest.param((49_152, 2048, 2048, 128), False, id="copied"),
        pytest.param((65_536, 7168, 4096, 32), True, id="wide", marks=pytest.mark.slow),
    ],
)
def test_lowers_for_cuda(shape, transpose_rhs):
    product = functools.partial(
        dispatch.matmul_quantized, transpose_rhs=transpose_rhs, out_dtype=jnp.bfloat16
    )
    traced = jax.jit(product).trace(*abstract(*shape))
    assert "mosaic_gpu" in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_vmap_lowers_for_cuda():
    lhs, rhs, sizes = abstract(200, 128, 256, 4)
    product = functools.partial(
        dispatch.matmul_quantized, transpose_rhs=True, out_dtype=jnp.bfloat16
    )
    two = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), (lhs, sizes))
    mapped = jax.vmap(product, in_axes=(0, None, 0))
    assert jax.eval_shape(mapped, two[0], rhs, two[1]).shape == (2, 200, 256)
    text = jax.jit(mapped).trace(two[0], rhs, two[1]).lower(lowering_platforms=("cuda",)).as_text()
    assert "mosaic_gpu" in text


def test_the_kernel_is_chosen_only_where_it_can_run(monkeypatch):
    monkeypatch.setattr(dispatch.hopper, "why_not", lambda platform: None)
    lhs, rhs, _ = abstract(200, 128, 256, 4)
    assert grouped_matmul_quantized_choice(lhs, rhs).implementation == "mosaic_gpu"
    reasons = {
        "16 bits": grouped_matmul_quantized_choice(lhs, rhs, jnp.float32),
        "multiples of 128": grouped_matmul_quantized_choice(*abstract(200, 192, 256, 4)[:2]),
        "squares of 128": grouped_matmul_quantized_choice(lhs, Quantized(*_parts(rhs), None)),
    }
    monkeypatch.undo()
    reasons["Hopper"] = grouped_matmul_quantized_choice(lhs, rhs)
    for words, choice in reasons.items():
        assert choice.implementation == "read back" and words in choice.reasons["mosaic_gpu"]


def _parts(quantized):
    return quantized.values, quantized.scales
