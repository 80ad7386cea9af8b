"""Grouped products of this package and of its peers in JAX on the same inputs."""

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

import pallas_kernels
from pallas_kernels.bench import timing
from pallas_kernels.grouped_matmul import cases

OPS = ("forward", "dlhs", "drhs")
# Block rows, columns and depth, steps in flight, column blocks walked together.
_MGPU_BLOCKS = (
    (128, 128, 64, 4, 1),
    (64, 128, 64, 4, 1),
    (128, 128, 64, 4, 4),
    (64, 256, 64, 4, 2),
    (128, 256, 64, 4, 2),
)


class _Peer(NamedTuple):
    """A product of (lhs, rhs, group sizes) in several variants; the fastest counts."""

    name: str
    products: tuple[Callable, ...]
    reason: str | None = None


def flops(case: cases.Case) -> float:
    """Model FLOPs of each op."""
    return 2.0 * case.num_rows * case.contracted * case.out_width


def rows(case: cases.Case) -> list[timing.Row]:
    """Every implementation's product, and each gradient by itself."""
    *arrays, group_sizes = cases.make_inputs(case)
    lhs, rhs, grad = (jnp.asarray(x, jnp.bfloat16) for x in arrays)
    inputs = lhs, rhs, jnp.asarray(group_sizes), grad
    choice = pallas_kernels.grouped_matmul_choice(lhs, rhs).implementation
    ours = _Peer(f"ours ({choice})", (pallas_kernels.grouped_matmul,))
    return [_time(case, op, peer, inputs) for peer in (ours, *_peers()) for op in OPS]


def _peers() -> Iterator[_Peer]:
    yield _Peer("jax.lax.ragged_dot", (jax.lax.ragged_dot,))
    yield _Peer("bound: dense matmul", (_dense,))
    yield _importable("tokamax", "tokamax", _tokamax)
    mgpu = "jax.experimental.pallas.ops.gpu.ragged_dot_mgpu"
    yield _importable("jax ragged_dot_mgpu", mgpu, _ragged_dot_mgpu)


def _dense(lhs, rhs, group_sizes):
    """The same number of FLOPs without groups."""
    return lhs @ rhs[0]


def _importable(name, module, variants):
    if jax.default_backend() != "gpu":
        return _Peer(name, (), f"needs an NVIDIA GPU, JAX runs on {jax.default_backend()}")
    try:
        return _Peer(name, variants(importlib.import_module(module)))
    except ImportError as error:
        return _Peer(name, (), f"not importable: {error}")


def _tokamax(module):
    return (functools.partial(module.ragged_dot, implementation="mosaic"),)


def _ragged_dot_mgpu(module):
    names = ("block_m", "block_n", "block_k", "max_concurrent_steps", "grid_block_n")

    def variant(blocks):
        sizes = dict(zip(names, blocks, strict=True))
        return lambda lhs, rhs, group_sizes: module.ragged_dot(
            lhs, rhs, group_sizes=group_sizes, **sizes
        )

    return tuple(variant(blocks) for blocks in _MGPU_BLOCKS)


def _time(case, op, peer, inputs):
    if peer.reason:
        return timing.Row(case.name, op, peer.name, None, None, peer.reason)
    found = [
        timing.attempt(
            case.name,
            op,
            peer.name,
            flops(case),
            functools.partial(_jit(product, op), *inputs),
            jax.block_until_ready,
        )
        for product in peer.products
    ]
    return min(found, key=lambda row: row.ms or float("inf"))


def _jit(product, op):
    """The op as a function of lhs, rhs, group sizes and grad; the compiler drops what is unused."""

    def forward(lhs, rhs, group_sizes, grad):
        return product(lhs, rhs, group_sizes)

    def dlhs(lhs, rhs, group_sizes, grad):
        return jax.vjp(lambda lhs: product(lhs, rhs, group_sizes), lhs)[1](grad)

    def drhs(lhs, rhs, group_sizes, grad):
        return jax.vjp(lambda rhs: product(lhs, rhs, group_sizes), rhs)[1](grad)

    return jax.jit({"forward": forward, "dlhs": dlhs, "drhs": drhs}[op])
