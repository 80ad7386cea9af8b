"""Grouped products of this package, of jax.lax and of tokamax on the same inputs."""

import functools
import importlib

import jax
import jax.numpy as jnp

import pallas_kernels
from pallas_kernels.bench import timing
from pallas_kernels.grouped_matmul import cases

OPS = ("forward", "forward+backward")


def flops(case: cases.Case) -> dict[str, float]:
    """Model FLOPs of each op."""
    product = 2.0 * case.num_rows * case.contracted * case.out_width
    return dict(zip(OPS, (product, 3 * product), strict=True))


def rows(case: cases.Case) -> list[timing.Row]:
    """Every implementation's product, and product with both gradients."""
    *arrays, group_sizes = cases.make_inputs(case)
    lhs, rhs, grad = (jnp.asarray(x, jnp.bfloat16) for x in arrays)
    group_sizes = jnp.asarray(group_sizes)
    choice = pallas_kernels.grouped_matmul_choice(lhs, rhs).implementation
    products = [
        (f"ours ({choice})", pallas_kernels.grouped_matmul),
        ("jax.lax.ragged_dot", jax.lax.ragged_dot),
    ]
    found = []
    try:
        tokamax = importlib.import_module("tokamax")
        products.append(("tokamax", functools.partial(tokamax.ragged_dot, implementation="mosaic")))
    except ImportError as error:
        reason = f"not importable: {error}"
        found = [timing.Row(case.name, op, "tokamax", None, None, reason) for op in OPS]
    for name, product in products:
        found += _both(case, name, product, (lhs, rhs, group_sizes, grad))
    return found


def _both(case, name, product, inputs):
    def gradients(lhs, rhs, group_sizes, grad):
        out, pullback = jax.vjp(lambda lhs, rhs: product(lhs, rhs, group_sizes), lhs, rhs)
        return out, pullback(grad)

    work = flops(case)
    runs = (
        functools.partial(jax.jit(product), *inputs[:3]),
        functools.partial(jax.jit(gradients), *inputs),
    )
    return [
        timing.attempt(case.name, op, name, work[op], run, jax.block_until_ready)
        for op, run in zip(OPS, runs, strict=True)
    ]
