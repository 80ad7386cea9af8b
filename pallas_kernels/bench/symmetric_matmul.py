"""Symmetric products of this package next to XLA's, and five Newton-Schulz steps made of them.

    X <- X / |X|        R = X X^T        P = a I + b R + c R R        X <- P X

The Gram form does two or three steps on R before it touches X again, which is cheaper for long
matrices: R <- P R P, Q <- P Q, then X <- Q X. Everything is in float16, which that form needs.
"""

import functools
import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

import pallas_kernels
from pallas_kernels.bench import timing
from pallas_kernels.symmetric_matmul import cases, xla

OPS = ("product", "five steps")
STEPS = 5
ROW = 3.4445, -4.7750, 2.0315  # Keller Jordan's a, b, c


def flops(case: cases.Case) -> dict[str, float]:
    """FLOPs of the whole square, and of the plain iteration, whatever an implementation saves."""
    square = 2.0 * case.batch * case.size**2
    step = square * (2 * case.width + case.size)
    return dict(zip(OPS, (square * case.width, STEPS * step), strict=True))


def rows(case: cases.Case) -> list[timing.Row]:
    """Every implementation's product, and five steps on the matrices of a Gram product."""
    *arrays, factors = cases.make_inputs(case)
    lhs, rhs, addend = (None if x is None else jnp.asarray(x, jnp.float16) for x in arrays)
    choice = pallas_kernels.symmetric_matmul_choice(lhs).implementation
    names = [(f"ours ({choice})", "auto")]
    if choice != "xla":  # else it would be timed twice
        names.append(("XLA", "xla"))
    found = []
    for name, implementation in names:
        product = functools.partial(
            pallas_kernels.symmetric_matmul, implementation=implementation, **factors
        )
        run = functools.partial(jax.jit(product), lhs, rhs, addend)
        found.append(_row(case, OPS[0], name, run))
    if case.kind == "gram":
        found += _iterations(case, lhs, f"ours ({choice}")
    return found


def _iterations(case, x, ours):
    ours_of = pallas_kernels.symmetric_matmul
    forms = (
        (f"{ours}, direct)", direct, ours_of),
        (f"{ours}, Gram)", gram, ours_of),
        ("jnp, direct", direct, plain),
        ("jnp, Gram", gram, plain),
    )
    found = []
    for name, form, symmetric in forms:
        run = functools.partial(jax.jit(functools.partial(form, symmetric=symmetric)), x)
        found.append(_row(case, OPS[1], name, run))
    return [*found, _optax(case, x)]


def _row(case, op, name, run):
    return timing.attempt(case.name, op, name, flops(case)[op], run, jax.block_until_ready)


def plain(lhs, rhs=None, addend=None, **factors):
    """What one writes first: XLA multiplies the whole square."""
    factors = {"scale": 1.0, "addend_scale": 1.0, "diagonal": 0.0} | factors
    return xla.matmul(lhs, lhs if rhs is None else rhs, addend, **factors)


def direct(x, *, symmetric: Callable):
    """Five steps, each with two symmetric products and one that is not."""
    x = _normalised(x)
    for _ in range(STEPS):
        x = _polynomial(symmetric(x), symmetric) @ x
    return x


def gram(x, *, symmetric: Callable):
    """Five steps in the Gram form, with a fresh R after three."""
    x = _normalised(x)
    for count in (3, 2):
        r = symmetric(x)
        q = p = _polynomial(r, symmetric)
        for _ in range(count - 1):
            r = symmetric(p, symmetric(r, p))
            p = _polynomial(r, symmetric)
            q = symmetric(p, q)
        x = q @ x
    return x


def _polynomial(r, symmetric):
    a, b, c = ROW
    return symmetric(r, r, r, scale=c, addend_scale=b, diagonal=a)


def _normalised(x):
    norm = jnp.linalg.norm(x.astype(jnp.float32), axis=(-2, -1), keepdims=True)
    return (x / norm).astype(x.dtype)


def _optax(case, x):
    name = "optax.contrib"
    try:
        muon = importlib.import_module("optax.contrib._muon")
        orthogonalize = muon.orthogonalize_via_newton_schulz
    except (ImportError, AttributeError) as error:
        return timing.Row(case.name, OPS[1], name, None, None, f"not importable: {error}")
    coefficients = jnp.asarray(ROW, x.dtype)
    run = functools.partial(
        jax.jit(jax.vmap(lambda x: orthogonalize(x, coefficients, ns_steps=STEPS))), x
    )
    return _row(case, OPS[1], name, run)
