"""Dense products of a layer in bfloat16 and in FP8: one scale in XLA, blocks in our kernel.

The kernel is the grouped product, with one group. Casts of rows are counted in "with casts".

Letters: M tokens, K contracted width, N output width.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.bench import timing
from pallas_kernels.grouped_matmul.quantized import grouped_matmul_quantized
from pallas_kernels.quantize import SQUARE_BLOCK, Quantized, dequantize, quantize


class Case(NamedTuple):
    """x (M, K) times w (N, K)."""

    name: str
    num_rows: int
    contracted: int
    out_width: int


CASES = (
    Case("square", 128, 128, 128),
    Case("kanana_2_30b_q", 8192, 2048, 6144),
    Case("kanana_2_30b_kv_b", 8192, 512, 8192),
    Case("kanana_2_30b_o", 8192, 4096, 2048),
    Case("kanana_2_30b_dense_up", 8192, 2048, 12_288),
    Case("kanana_2_30b_shared_up", 8192, 2048, 3072),
    Case("kanana_2_30b_shared_down", 8192, 1536, 2048),
)
SMALL_CASES, BENCHMARK_CASES = CASES[:1], CASES[1:]


def rows(case: Case) -> list[timing.Row]:
    """Products of arrays that are quantised already, and products with the casts of rows."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (case.num_rows, case.contracted), jnp.bfloat16)
    w = jax.random.normal(keys[1], (case.out_width, case.contracted), jnp.bfloat16)
    x_whole, w_whole = (jax.jit(quantize, static_argnums=1)(a, None) for a in (x, w))
    x_rows, w_squares = jax.jit(quantize)(x), jax.jit(quantize, static_argnums=1)(w, SQUARE_BLOCK)
    runs = (
        ("forward", "bf16 (XLA)", _plain, (x, w)),
        ("forward", "ours, one scale (XLA)", _whole, (x_whole, w_whole)),
        ("forward", "ours, blocks", _blocks, (x_rows, w_squares)),
        ("with casts", "bf16 (XLA)", _plain, (x, w)),
        ("with casts", "ours, one scale (XLA)", _cast_whole, (x, w_whole)),
        ("with casts", "ours, blocks", _cast_blocks, (x, w_squares)),
        ("with casts", "ours, read back", _read_back, (x, w_squares)),
    )
    work = 2.0 * case.num_rows * case.contracted * case.out_width
    return [
        timing.attempt(
            case.name,
            op,
            name,
            work,
            functools.partial(jax.jit(function), *inputs),
            jax.block_until_ready,
        )
        for op, name, function, inputs in runs
    ]


def _plain(x, w):
    return jnp.einsum("mk,nk->mn", x, w)


def _whole(x: Quantized, w: Quantized):
    product = jnp.einsum("mk,nk->mn", x.values, w.values, preferred_element_type=jnp.float32)
    return (product * (x.scales * w.scales)).astype(jnp.bfloat16)


def _cast_whole(x, w):
    return _whole(quantize(x, None), w)


def _blocks(x: Quantized, w: Quantized):
    w = Quantized(w.values[None], w.scales[None], w.block)
    sizes = jnp.full((1,), x.values.shape[0], jnp.int32)
    return grouped_matmul_quantized(x, w, sizes, transpose_rhs=True)


def _cast_blocks(x, w):
    return _blocks(quantize(x), w)


def _read_back(x, w):
    return _plain(dequantize(quantize(x)), dequantize(w))
