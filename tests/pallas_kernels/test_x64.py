"""JAX_ENABLE_X64: 32-bit arrays give the same results, 64-bit arrays are computed in 64 bits."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.flash_attention.gpu import dispatch as attention_gpu
from pallas_kernels.flash_attention.tpu import dispatch as attention_tpu
from pallas_kernels.grouped_matmul.gpu import dispatch as grouped_gpu
from pallas_kernels.grouped_matmul.tpu import dispatch as grouped_tpu
from pallas_kernels.grouped_matmul.tpu import tiles as tiling
from pallas_kernels.quantize.formats import ROW_BLOCK, SQUARE_BLOCK, VALUES, Quantized
from pallas_kernels.symmetric_matmul.gpu import dispatch as symmetric_gpu
from pallas_kernels.symmetric_matmul.tpu import dispatch as symmetric_tpu


def draw(*shape, dtype=np.float64):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


# (function of implementation and arrays that are differentiated, the arrays' shapes); integers are
# NumPy's int64, as np.bincount gives them.
SIZES, IDS = np.bincount([0, 0, 2, 2, 2]), np.arange(12)[None] // 5
EXPERTS = np.array([[0, 1], [2, 0], [1, 2], [0, 2], [1, 0]])
CASES = {
    "flash_attention": (
        lambda name, q, k, v: pallas_kernels.flash_attention(
            q, k, v, segment_ids=IDS, implementation=name
        )[0],
        ((1, 12, 2, 4), (1, 12, 2, 4), (1, 12, 2, 3)),
    ),
    "grouped_matmul": (
        lambda name, x, w: pallas_kernels.grouped_matmul(x, w, SIZES, implementation=name),
        ((6, 4), (3, 4, 5)),
    ),
    "grouped_outer": (
        lambda name, x, y: pallas_kernels.grouped_outer(x, y, SIZES, implementation=name),
        ((6, 4), (6, 5)),
    ),
    "moe_mlp": (
        lambda name, x, up, down, w: pallas_kernels.moe_mlp(
            x, up, down, EXPERTS, w, implementation=name
        ),
        ((5, 4), (3, 2, 6, 4), (3, 6, 4), (5, 2)),
    ),
    "symmetric_matmul": (
        lambda name, x: pallas_kernels.symmetric_matmul(x, diagonal=1.0, implementation=name),
        ((2, 4, 6),),
    ),
}


def with_gradients(case, implementation, arrays):
    function, _ = CASES[case]
    out, pullback = jax.vjp(functools.partial(function, implementation), *arrays)
    return out, *pullback(jnp.cos(out))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_64_bits_keep_their_digits(case):
    arrays = [draw(*shape) for shape in CASES[case][1]]
    with jax.enable_x64(True):
        ours = jax.jit(functools.partial(with_gradients, case, "xla"))(arrays)
        theirs = jax.jit(functools.partial(with_gradients, case, "reference"))(arrays)
        for one, other, like in zip(ours, theirs, [ours[0], *arrays], strict=True):
            assert one.dtype == jnp.float64 and one.shape == like.shape
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    narrow = [np.float32(x) for x in arrays]
    want = jax.jit(functools.partial(with_gradients, case, "reference"))(narrow)
    for one, other in zip(theirs, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("implementation", ["xla", "reference"])
@pytest.mark.parametrize("case", CASES)
def test_arrays_of_32_bits_keep_their_dtype(case, implementation, dtype):
    shapes = CASES[case][1]
    dtypes = [dtype] * len(shapes)
    if case == "moe_mlp":
        dtypes[-1] = jnp.float32  # the router's weights
    with jax.enable_x64(True):
        arrays = [jax.ShapeDtypeStruct(*x) for x in zip(shapes, dtypes, strict=True)]
        found = jax.eval_shape(functools.partial(with_gradients, case, implementation), arrays)
    assert [x.dtype for x in found] == [dtype, *dtypes]


def _attention(module, **options):
    def lower(q, ids):
        q_ids = ids.astype(jnp.int32)
        attend = functools.partial(module.attention, causal=True, scale=0.1, **options)
        return jax.grad(lambda q: attend(q, q, q, q_ids, q_ids)[0].astype(jnp.float32).sum())(q)

    return lower, ((1, 256, 2, 128), (1, 256))


_TILES = tiling.Tiles(rows=128, k=256, n=128, piece_rows=128)
_TPU = attention_tpu.Config(128, 128, 256, 256, vmem_bytes=16 << 20)


def _grouped(module, **options):
    def lower(x, sizes):
        sizes = sizes.astype(jnp.int32)
        w = jnp.zeros((4, 256, 128), x.dtype)
        out = module.matmul(x, w, sizes, transpose_rhs=False, out_dtype=x.dtype, **options)
        return out, module.outer(x, out, sizes, out_dtype=x.dtype, **options)

    return lower, ((512, 256), (4,))


def _quantized(module, **options):
    def lower(x, sizes):
        sizes = sizes.astype(jnp.int32)
        rows = Quantized(x.astype(VALUES), jnp.ones((512, 2), jnp.float32), ROW_BLOCK)
        ones = jnp.ones((4, 128, 256), VALUES), jnp.ones((4, 1, 2), jnp.float32)
        kinds = dict(transpose_rhs=True, out_dtype=x.dtype, **options)
        return module.matmul_quantized(rows, Quantized(*ones, SQUARE_BLOCK), sizes, **kinds)

    return lower, ((512, 256), (4,))


def _symmetric(module, **options):
    def lower(x, _):
        factors = {"scale": jnp.float64(2.0), "addend_scale": 1.0, "diagonal": 0.0}
        return module.matmul(x, x, None, **factors, **options)

    return lower, ((2, 256, 512), ())


KERNELS = {
    "attention-gpu": ("cuda", *_attention(attention_gpu)),
    "attention-tpu": (None, *_attention(attention_tpu, config=_TPU, interpret=True)),
    "grouped-gpu": ("cuda", *_grouped(grouped_gpu)),
    "grouped-fp8-gpu": ("cuda", *_quantized(grouped_gpu)),
    "grouped-tpu": (None, *_grouped(grouped_tpu, tiles=_TILES, interpret=True)),
    "symmetric-gpu": ("cuda", *_symmetric(symmetric_gpu)),
    "symmetric-tpu": (None, *_symmetric(symmetric_tpu, interpret=True)),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_traced_and_lowered(name):
    platform, function, (shape, integers) = KERNELS[name]
    with jax.enable_x64(True):
        x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
        traced = jax.jit(function).trace(x, jax.ShapeDtypeStruct(integers, jnp.int64))
        assert len(re.findall(r"[if]64\[", str(traced.jaxpr))) == 1  # the given integers
        traced.lower(lowering_platforms=platform and (platform,))
