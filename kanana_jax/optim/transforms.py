"""Muon: momentum, then the polar factor of each matrix (arXiv:2502.16982, sec. 2).

    M <- mu M + G        U = polar(mu M + G)        W <- W - lr * (scale(shape) * U + wd * W)

The two middle pieces are here, each an optax transform; `recipes` joins them with the rest.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kanana_jax.optim import dtypes, layouts, matrices, trees
from kanana_jax.optim.specs import MatrixSpec

ShapeRule = Callable[[int, int], float]

SHAPE_RULES: dict[str, ShapeRule] = {
    # RMS of 0.2 per entry, AdamW's usual update size, so both can share lr and weight decay.
    "moonlight": lambda fan_in, fan_out: 0.2 * max(fan_in, fan_out) ** 0.5,
    "keller_jordan": lambda fan_in, fan_out: max(1.0, fan_out / fan_in) ** 0.5,
    # Unit change of the output's RMS norm per unit RMS input (arXiv:2310.17813).
    "spectral": lambda fan_in, fan_out: (fan_out / fan_in) ** 0.5,
    "none": lambda fan_in, fan_out: 1.0,
}


class ScaleByMuonState(NamedTuple):
    momentum: Any


def scale_by_muon(
    *,
    polar_fn: Callable[[jax.Array], jax.Array],
    specs: Any = None,
    momentum: float,
    nesterov: bool,
    momentum_dtype: jax.typing.DTypeLike | None = None,
    layout: layouts.Layout = layouts.in_place,
) -> optax.GradientTransformationExtraArgs:
    """Replace each gradient by the polar factors of its momentum.

    `polar_fn` maps (..., M, N) stacks. `specs` is a tree of `MatrixSpec` (or a function from the
    gradients to one); None means that every leaf is one matrix. Momentum is kept in float32 unless
    `momentum_dtype` says otherwise; updates come back in the gradients' dtype. `layout` decides on
    which devices the factors are computed, see `layouts`.
    """

    def init_fn(params):
        resolve(params, specs)

        def zeros(p):
            return jnp.zeros_like(p, dtype=_state_dtype(p, momentum_dtype))

        return ScaleByMuonState(jax.tree.map(zeros, params))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        wide = jax.tree.map(
            lambda m, g: momentum * m.astype(dtypes.wide_dtype(g)) + dtypes.widen(g),
            state.momentum,
            updates,
        )
        if nesterov:
            ahead = jax.tree.map(lambda m, g: momentum * m + g.astype(m.dtype), wide, updates)
        else:
            ahead = wide
        factors = _polar_factors(ahead, specs, polar_fn, layout)
        new_updates = jax.tree.map(lambda u, g: u.astype(g.dtype), factors, updates)
        kept = jax.tree.map(lambda m, old: m.astype(old.dtype), wide, state.momentum)
        return new_updates, ScaleByMuonState(kept)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def scale_by_shape(rule: str | ShapeRule, specs: Any = None) -> optax.GradientTransformation:
    """Multiply each matrix by rule(fan_in, fan_out); a rule is a name in `SHAPE_RULES` or yours."""
    if isinstance(rule, str) and rule not in SHAPE_RULES:
        raise ValueError(f"shape rule must be one of {sorted(SHAPE_RULES)}, got {rule!r}.")
    scale = SHAPE_RULES[rule] if isinstance(rule, str) else rule

    def scaled(leaf, spec):
        if not leaf.size:
            return leaf
        stacks = matrices.split_matrices(leaf, spec)
        factors = [scale(*fan) for fan in matrices.fans(leaf.shape, spec)]
        parts = tuple(x * jnp.asarray(f, x.dtype) for x, f in zip(stacks, factors, strict=True))
        return matrices.merge_matrices(parts, spec, leaf.shape)

    def update_fn(updates, state, params=None):
        del params
        leaves, leaf_specs, _, rebuild = resolve(updates, specs)
        return rebuild([scaled(x, s) for x, s in zip(leaves, leaf_specs, strict=True)]), state

    return optax.GradientTransformation(optax.init_empty_state, update_fn)


def _polar_factors(tree, specs, polar_fn, layout: layouts.Layout):
    leaves, leaf_specs, paths, rebuild = resolve(tree, specs)
    stacks = [matrices.split_matrices(x, s) for x, s in zip(leaves, leaf_specs, strict=True)]
    factors = layout(polar_fn, stacks, leaf_specs, paths)
    merged = zip(factors, leaf_specs, leaves, strict=True)
    return rebuild([matrices.merge_matrices(f, spec, leaf.shape) for f, spec, leaf in merged])


def resolve(
    tree: Any, specs: Any
) -> tuple[list[jax.Array], list[MatrixSpec], list[str], Callable[[list], Any]]:
    """Return leaves, their checked specs, their paths, and the function that rebuilds the tree."""
    if specs is None:
        specs = MatrixSpec()
    leaves, leaf_specs, paths, rebuild = trees.describe(tree, specs, "specs")
    missing = [p for p, s in zip(paths, leaf_specs, strict=True) if not isinstance(s, MatrixSpec)]
    if missing:
        raise ValueError(
            f"Muon needs a MatrixSpec for every leaf it updates, got none for {missing}; give them "
            "one, or give these leaves to another optimizer with optim.partition."
        )
    for leaf, spec, path in zip(leaves, leaf_specs, paths, strict=True):
        try:
            matrices.fans(leaf.shape, spec)
        except ValueError as error:
            raise ValueError(f"at {path!r}: {error}") from None
    return leaves, leaf_specs, paths, rebuild


def _state_dtype(x: jax.Array, dtype: jax.typing.DTypeLike | None) -> jax.typing.DTypeLike:
    if dtype is None:
        return dtypes.wide_dtype(x)
    if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"momentum_dtype {dtype} cannot hold the momentum of {x.dtype} leaves.")
    return dtype
