"""One optimizer step from several micro-batches.

    G = mean_i G_i        S = max_i S_i        (S: QK-Clip's largest logits)

`optax.MultiSteps` averages gradients too, but hands its inner optimizer only the last micro-batch's
max_logits. Summing them would clip heads that no micro-batch saw above tau.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kanana_jax.optim import checks, clipping, dtypes


class AccumulateState(NamedTuple):
    micro_step: jax.Array
    gradients: Any  # sum, in float32 or wider
    max_logits: Any  # None where the inner optimizer has no qk_clip
    inner: Any


def accumulate(
    inner: optax.GradientTransformation, num_micro_batches: int
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that it steps on every `num_micro_batches`-th update.

    All other calls return zero updates. Of keyword arguments besides max_logits, the inner
    optimizer gets those of the last micro-batch.
    """
    checks.count("num_micro_batches", num_micro_batches)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        inner_state = inner.init(params)
        return AccumulateState(
            micro_step=jnp.zeros((), jnp.int32),
            gradients=jax.tree.map(lambda p: jnp.zeros(p.shape, dtypes.wide_dtype(p)), params),
            max_logits=_unseen(inner_state),
            inner=inner_state,
        )

    def update_fn(updates, state, params=None, **extra_args):
        total = jax.tree.map(lambda a, g: a + g.astype(a.dtype), state.gradients, updates)
        seen = state.max_logits
        if seen is not None:
            now = clipping.checked_max_logits(extra_args.get("max_logits"), seen.shape)
            # jnp.maximum keeps NaN, so that qk_clip can count it.
            seen = jnp.maximum(seen, now)
            extra_args["max_logits"] = seen

        def step(inner_state):
            mean = jax.tree.map(
                lambda t, g: (t / num_micro_batches).astype(g.dtype), total, updates
            )
            return inner.update(mean, inner_state, params, **extra_args)

        def wait(inner_state):
            shapes, _ = jax.eval_shape(step, inner_state)
            return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), inner_state

        is_last = state.micro_step == num_micro_batches - 1
        new_updates, inner_state = jax.lax.cond(is_last, step, wait, state.inner)
        return new_updates, AccumulateState(
            micro_step=jnp.where(is_last, 0, state.micro_step + 1),
            gradients=jax.tree.map(lambda t: jnp.where(is_last, 0.0, t), total),
            max_logits=None if seen is None else jnp.where(is_last, -jnp.inf, seen),
            inner=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _unseen(inner_state) -> jax.Array | None:
    clips = clipping.find_clip_states(inner_state)
    return jnp.full(clips[0].gamma.shape, -jnp.inf, jnp.float32) if clips else None
