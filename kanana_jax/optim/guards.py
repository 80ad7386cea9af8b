"""Skip updates whose gradients cannot be trusted.

    skip when |g|, the loss or |update| is not finite,
    or |g| > mean + num_sigmas * std of the last accepted norms

Only accepted steps enter the statistics: one NaN that reaches a rolling mean would condemn every
step until it has left the window.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kanana_jax.optim import checks, dtypes


class SkipState(NamedTuple):
    inner: Any
    accepted_norms: jax.Array  # float32 ring buffer, -1 where forgotten
    num_accepted: jax.Array
    num_skipped: jax.Array
    consecutive_skips: jax.Array
    last_norm: jax.Array  # float32, of the last gradient seen


def skip_bad_steps(
    inner: optax.GradientTransformation,
    *,
    window_steps: int = 128,
    num_sigmas: float = 6.0,
    max_consecutive_skips: int = 10,
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that bad gradients give a zero update and leave its state untouched.

    `update` takes the step's `loss` as a keyword; a non-finite loss is just as bad. A non-finite
    update from a finite gradient becomes zero and counts as skipped, but the inner state has
    moved: if the state broke, every step is skipped until the caller restores an old one.

    Spikes are judged once `window_steps` norms were accepted, and as many again after
    `forget_norms`. std is taken as at least 1 % of the mean, so that a quiet stretch does not make
    every ripple a spike. After `max_consecutive_skips` in a row a finite gradient is accepted
    whatever its norm: the level has moved. Non-finite gradients never are; `skip_report(state)`
    tells the training loop when to give up or roll back.
    """
    checks.count("window_steps", window_steps)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        zero = jnp.zeros((), jnp.int32)
        return SkipState(
            inner=inner.init(params),
            accepted_norms=jnp.zeros((window_steps,), jnp.float32),
            num_accepted=zero,
            num_skipped=zero,
            consecutive_skips=zero,
            last_norm=jnp.zeros((), jnp.float32),
        )

    def update_fn(updates, state, params=None, *, loss=0.0, **extra_args):
        norm = optax.tree_utils.tree_norm(dtypes.widen_tree(updates)).astype(jnp.float32)
        mean, std = jnp.mean(state.accepted_norms), jnp.std(state.accepted_norms)
        limit = mean + num_sigmas * jnp.maximum(std, 0.01 * mean)
        is_full = (state.num_accepted >= window_steps) & jnp.all(state.accepted_norms >= 0)
        is_spike = (norm > limit) & is_full
        has_moved = state.consecutive_skips >= max_consecutive_skips
        is_trusted = jnp.isfinite(norm) & jnp.isfinite(loss) & (~is_spike | has_moved)

        def accept(updates, inner_state):
            return inner.update(updates, inner_state, params, **extra_args)

        def skip(updates, inner_state):
            shapes, _ = jax.eval_shape(accept, updates, inner_state)
            return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), inner_state

        new_updates, new_inner = jax.lax.cond(is_trusted, accept, skip, updates, state.inner)
        is_sound = jnp.isfinite(optax.tree_utils.tree_norm(dtypes.widen_tree(new_updates)))
        new_updates = jax.tree.map(lambda u: jnp.where(is_sound, u, 0), new_updates)
        is_accepted = is_trusted & is_sound
        slot = state.num_accepted % window_steps
        entered = state.accepted_norms.at[slot].set(norm)
        return new_updates, SkipState(
            inner=new_inner,
            accepted_norms=jnp.where(is_accepted, entered, state.accepted_norms),
            num_accepted=state.num_accepted + is_accepted,
            num_skipped=state.num_skipped + ~is_accepted,
            consecutive_skips=jnp.where(is_accepted, 0, state.consecutive_skips + 1),
            last_norm=norm,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def forget_norms(opt_state: Any) -> Any:
    """Return the state without its accepted norms, for data whose norms have another level.

    Counts stay. Raises ValueError unless the state has exactly one SkipState.
    """
    _only(opt_state)

    def forget(node):
        if not _is_skip(node):
            return node
        norms = node.accepted_norms
        return node._replace(accepted_norms=jnp.full_like(norms, -1.0, device=norms.sharding))

    return jax.tree.map(forget, opt_state, is_leaf=_is_skip)


def skip_report(opt_state: Any) -> dict[str, jax.Array]:
    """Return counts of accepted, skipped and consecutively skipped steps, and the last norm."""
    found = _only(opt_state)
    kept = ("num_accepted", "num_skipped", "consecutive_skips", "last_norm")
    return {name: getattr(found, name) for name in kept}


def _is_skip(node: Any) -> bool:
    return isinstance(node, SkipState)


def _only(opt_state: Any) -> SkipState:
    found = [node for node in jax.tree.leaves(opt_state, is_leaf=_is_skip) if _is_skip(node)]
    if len(found) != 1:
        raise ValueError(f"one SkipState is needed in the state, found {len(found)}.")
    return found[0]
