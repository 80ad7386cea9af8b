"""Grouped products in FP8 blocks next to those in bfloat16, on the same numbers.

Weights are quantised beforehand, as they are once per optimizer step; "with casts" quantises the
rows too.
"""

import functools

import jax
import jax.numpy as jnp

import pallas_kernels
from pallas_kernels.bench import grouped_matmul, timing
from pallas_kernels.grouped_matmul import cases
from pallas_kernels.grouped_matmul.quantized import (
    grouped_matmul_quantized,
    grouped_matmul_quantized_choice,
)
from pallas_kernels.quantize import SQUARE_BLOCK, quantize

OPS = ("forward", "dlhs", "forward with casts", "dlhs with casts")


def rows(case: cases.Case) -> list[timing.Row]:
    """The product and its gradient in lhs, for rows that are quantised already and for others."""
    *arrays, group_sizes = cases.make_inputs(case)
    lhs, rhs_GKN, grad = (jnp.asarray(x, jnp.bfloat16) for x in arrays)
    found = []
    # Both contract the last axis of the matrices, as FP8 units require.
    for op, x, w in (("forward", lhs, jnp.swapaxes(rhs_GKN, 1, 2)), ("dlhs", grad, rhs_GKN)):
        found += _both(case, op, x, w, jnp.asarray(group_sizes))
    return found


def _both(case, op, x, w, group_sizes):
    quantized = jax.jit(quantize)(x), jax.jit(quantize, static_argnums=1)(w, SQUARE_BLOCK)
    choice = grouped_matmul_quantized_choice(*quantized).implementation
    ours, casts = f"ours, fp8 ({choice})", f"{op} with casts"
    product = functools.partial(grouped_matmul_quantized, transpose_rhs=True)
    plain = functools.partial(pallas_kernels.grouped_matmul, transpose_rhs=True)
    name = f"bf16 ({pallas_kernels.grouped_matmul_choice(x, w).implementation})"
    runs = (
        (op, ours, product, (*quantized, group_sizes)),
        (
            casts,
            ours,
            lambda x, *rest: product(quantize(x), *rest),
            (x, *quantized[1:], group_sizes),
        ),
        (op, name, plain, (x, w, group_sizes)),
        (casts, name, plain, (x, w, group_sizes)),
    )
    return [
        timing.attempt(
            case.name,
            label,
            implementation,
            grouped_matmul.flops(case),
            functools.partial(jax.jit(function), *inputs),
            jax.block_until_ready,
        )
        for label, implementation, function, inputs in runs
    ]
