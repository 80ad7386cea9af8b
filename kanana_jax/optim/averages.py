"""Weights kept next to the parameters: an average, and a float32 master copy.

average   every interval:  A <- decay A + (1 - decay) W       (arXiv:2608.20061, sec. 2.2)
masters   W_32 <- W_32 + u(W_32)      W = round(W_32)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kanana_jax.optim import checks, dtypes

_INT32_MAX = 2**31 - 1


class AverageState(NamedTuple):
    since_last: jax.Array  # int32, steps or tokens so far in the current interval
    average: Any  # float32 or wider


class MasterState(NamedTuple):
    master: Any  # float32 or wider
    inner: Any


def weight_average(
    decay: float = 0.6,
    *,
    interval_steps: int = 1,
    interval_tokens: int | None = None,
    tokens_per_step: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Keep a float32 moving average of the weights, updated every `interval_steps`.

    Alternatively every `interval_tokens`; an update then counts `tokens_per_step`. The state keeps
    the tokens so far in the current interval, so `tokens_per_step` may change during a run. An
    interval may overrun by part of a step; the next one is shorter by as much.

    Goes last in a chain, since it looks at params + updates, and changes no update. The source
    applies decay 0.6 every 2 B tokens. The average starts as the weights given to `init`: after k
    averagings their share is still decay^k, 0.6 % after ten of the source's. A non-finite update
    is no step: `skip_bad_steps` around this undoes it. Read the average with `averaged_params`.
    """
    interval, size = _interval(interval_steps, interval_tokens, tokens_per_step)

    def init_fn(params):
        return AverageState(jnp.zeros((), jnp.int32), _wide_copy(params))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError("weight_average needs params; call update(grads, state, params).")
        is_step = jnp.isfinite(optax.tree_utils.tree_norm(dtypes.widen_tree(updates)))
        # Not since_last + size, which may overflow int32.
        beyond = state.since_last - (interval - size)
        is_due = is_step & (beyond >= 0)
        counted = jnp.where(beyond >= 0, beyond % interval, state.since_last + size)

        def moved(average, p, u):
            new = dtypes.widen(jnp.asarray(optax.apply_updates(p, u)))
            # Between intervals the average must stay as it is, bit for bit.
            return jnp.where(is_due, average + (1.0 - decay) * (new - average), average)

        return updates, AverageState(
            since_last=jnp.where(is_step, counted, state.since_last),
            average=jax.tree.map(moved, state.average, params, updates),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _interval(
    interval_steps: int, interval_tokens: int | None, tokens_per_step: int | None
) -> tuple[int, int]:
    """An interval, and what one update adds to it, both in steps or in tokens."""
    checks.count("interval_steps", interval_steps)
    if interval_tokens is None and tokens_per_step is None:
        return interval_steps, 1
    if interval_tokens is None or tokens_per_step is None or interval_steps != 1:
        raise ValueError(
            "weight_average needs interval_steps alone, or interval_tokens with tokens_per_step, "
            f"got {interval_steps=}, {interval_tokens=}, {tokens_per_step=}."
        )
    checks.count("tokens_per_step", tokens_per_step)
    checks.count("interval_tokens", interval_tokens, least=tokens_per_step, most=_INT32_MAX)
    return interval_tokens, tokens_per_step


def averaged_params(opt_state: Any, params: Any) -> Any:
    """Return the average found in an optimizer state, in the dtypes of `params`."""

    def is_average(node):
        return isinstance(node, AverageState)

    leaves = jax.tree.leaves(opt_state, is_leaf=is_average)
    found = [node for node in leaves if is_average(node)]
    if len(found) != 1:
        raise ValueError(f"averaged_params needs one AverageState, found {len(found)}.")
    return jax.tree.map(lambda average, p: average.astype(p.dtype), found[0].average, params)


def with_master_weights(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Run an optimizer on a float32 copy of the weights that it keeps; params follow, rounded.

    Without it a bfloat16 weight ignores steps below 2^-9 of its size, and QK-Clip's factor rounds
    as coarsely. Updates come out in float32, so that optax.apply_updates gives exactly the rounded
    master weights. Do not change the parameters in another way: the master copy would not follow.
    """
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        master = _wide_copy(params)
        return MasterState(master, inner.init(master))

    def update_fn(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError("with_master_weights needs params; call update(grads, state, params).")
        steps, inner_state = inner.update(
            dtypes.widen_tree(updates), state.inner, state.master, **extra_args
        )
        master = optax.apply_updates(state.master, steps)

        def to_rounded(m, p):
            return dtypes.widen(m.astype(p.dtype)) - dtypes.widen(p)

        return jax.tree.map(to_rounded, master, params), MasterState(master, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _wide_copy(tree):
    # A copy even where nothing changes, so that donating params does not donate the state.
    return jax.tree.map(lambda x: jnp.array(x, dtype=dtypes.wide_dtype(x), copy=True), tree)
