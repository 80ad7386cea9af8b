"""Relatives of Muon that work on the polar factor O before it becomes an update.

    NorMuon    v <- b v + (1-b) mean_in(O^2)    O / (sqrt v + eps), v one number per output neuron
    AdaMuon    V <- b V + (1-b) O^2             O / (sqrt V + eps), O the factor of sign(momentum)
    Hyperball  W <- R N(W - lr R N(u))          N(x) = x / |x|_F, R = |W| at the start

The first two are rescaled to 0.2 RMS per entry, as Moonlight's update is.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kanana_jax.optim import dtypes, matrices, orthogonalize, transforms
from kanana_jax.optim.specs import MatrixSpec

_RMS = 0.2


class SecondMomentState(NamedTuple):
    second_moment: Any  # per leaf one array per part


class HyperballState(NamedTuple):
    count: jax.Array
    radius: Any  # per leaf one array per part, (*batch, 1, 1)


def scale_by_neuron(*, b2: float, eps: float, specs: Any) -> optax.GradientTransformation:
    """NorMuon's stage after the polar factor (arXiv:2510.05491, Alg. 1).

    Each output neuron's row is divided by a running root mean square of its entries, then each
    matrix is scaled to 0.2 RMS. No bias correction: that scaling cancels it.
    """

    def neuron_mean(stack, spec):
        axis = -1 if matrices.is_transposed(spec) else -2
        total = jnp.sum(dtypes.squared_size(stack), axis=axis, keepdims=True)
        return total / max(1, stack.shape[axis])

    return _by_second_moment(neuron_mean, b2, eps, specs)


def scale_by_entry(*, b2: float, eps: float, specs: Any) -> optax.GradientTransformation:
    """AdaMuon's stage after the polar factor (arXiv:2507.11005): Adam's second moment of O."""
    return _by_second_moment(lambda stack, spec: dtypes.squared_size(stack), b2, eps, specs)


def hyperball(lr: jax.typing.ArrayLike | optax.Schedule, specs: Any):
    """Turn directions into steps along a sphere (arXiv:2606.16899). Goes last; needs params.

        W <- R N(W - lr R N(u)),    R = |W|_F when `init` ran, one for every matrix

    Takes the place of learning rate and weight decay; `lr` is the tangent of the angle per step.
    """
    rate = lr if callable(lr) else lambda _: lr

    def init_fn(params):
        def radius(stack, spec):
            return _norm(stack)

        return HyperballState(jnp.zeros((), jnp.int32), _map_stacks(radius, params, specs))

    def update_fn(updates, state, params=None):
        if params is None:
            raise ValueError("hyperball needs params; call optimizer.update(grads, state, params).")
        step = rate(state.count)

        def moved(update, weight, radius):
            ahead = dtypes.widen(weight) - step * radius * orthogonalize.unit_frobenius(update)
            return radius * orthogonalize.unit_frobenius(ahead) - dtypes.widen(weight)

        new_updates = _merge(
            lambda u, w, r, spec: moved(u, w, r), updates, specs, params, state.radius
        )
        return new_updates, HyperballState(
            jnp.asarray(optax.safe_increment(state.count)), state.radius
        )

    return optax.GradientTransformation(init_fn, update_fn)


def _by_second_moment(mean_fn, b2: float, eps: float, specs) -> optax.GradientTransformation:
    def init_fn(params):
        def zeros(stack, spec):
            return jnp.zeros_like(mean_fn(dtypes.widen(stack), spec))

        return SecondMomentState(_map_stacks(zeros, params, specs))

    def update_fn(updates, state, params=None):
        del params

        def accumulate(stack, spec, moment):
            return b2 * moment + (1.0 - b2) * mean_fn(dtypes.widen(stack), spec)

        moments = _map_stacks(accumulate, updates, specs, state.second_moment)

        def scaled(stack, moment, spec):
            normalized = dtypes.widen(stack) / (jnp.sqrt(moment) + eps)
            size = (stack.shape[-2] * stack.shape[-1]) ** 0.5
            return _RMS * size * orthogonalize.unit_frobenius(normalized)

        return _merge(scaled, updates, specs, moments), SecondMomentState(moments)

    return optax.GradientTransformation(init_fn, update_fn)


def _map_stacks(fn, tree, specs, *states):
    """Map fn(stack, spec, *states) to a tree whose leaves are tuples with one entry per part."""
    leaves, leaf_specs, _, rebuild = transforms.resolve(tree, specs)
    rest = [_per_leaf(state, tree) for state in states]

    def of_leaf(leaf, spec, *parts):
        stacks = matrices.split_matrices(leaf, spec)
        return tuple(fn(stack, spec, *part) for stack, *part in zip(stacks, *parts, strict=True))

    return rebuild([of_leaf(*args) for args in zip(leaves, leaf_specs, *rest, strict=True)])


def _merge(fn, tree, specs, *others):
    """Map fn(stack, *other_parts, spec) over a tree; `others` are trees of leaves or of tuples."""
    leaves, leaf_specs, _, rebuild = transforms.resolve(tree, specs)

    def parts_of(other, spec: MatrixSpec):
        return other if isinstance(other, tuple) else matrices.split_matrices(other, spec)

    def of_leaf(leaf, spec, *rest):
        stacks = matrices.split_matrices(leaf, spec)
        parts = [parts_of(other, spec) for other in rest]
        merged = tuple(fn(*args, spec) for args in zip(stacks, *parts, strict=True))
        return matrices.merge_matrices(merged, spec, leaf.shape).astype(leaf.dtype)

    rest = [_per_leaf(other, tree) for other in others]
    return rebuild([of_leaf(*args) for args in zip(leaves, leaf_specs, *rest, strict=True)])


def _per_leaf(other, tree) -> list:
    return jax.tree.structure(tree).flatten_up_to(other)


def _norm(stack: jax.Array) -> jax.Array:
    return jnp.linalg.norm(dtypes.widen(stack), axis=(-2, -1), keepdims=True)
