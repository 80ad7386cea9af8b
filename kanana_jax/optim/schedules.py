"""Learning rate against step. Each function returns an optax schedule: step -> rate.

Step 0 is the first update. With warm-up the rate there is peak / warmup_steps, not zero; a decay to
final_ratio ends just after the last step, so no update is spent at a rate of zero. `peak` may be a
traced scalar.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import optax

Decay = Literal["linear", "cosine"]


def constant(peak: jax.typing.ArrayLike, *, warmup_steps: int = 0) -> optax.Schedule:
    """Linear warm-up, then `peak` for ever."""
    return lambda step: peak * _warmup(step, warmup_steps)


def cosine(
    peak: jax.typing.ArrayLike, *, num_steps: int, warmup_steps: int = 0, final_ratio: float = 0.0
) -> optax.Schedule:
    """Linear warm-up, then half a cosine from `peak` to final_ratio * peak at num_steps."""
    return wsd(
        peak,
        num_steps=num_steps,
        warmup_steps=warmup_steps,
        decay_steps=num_steps - warmup_steps,
        final_ratio=final_ratio,
        decay="cosine",
    )


def wsd(
    peak: jax.typing.ArrayLike,
    *,
    num_steps: int,
    decay_steps: int,
    warmup_steps: int = 0,
    final_ratio: float = 0.0,
    decay: Decay = "linear",
) -> optax.Schedule:
    """Linear warm-up, stable at `peak`, then a decay over the last `decay_steps` of num_steps."""
    if warmup_steps < 0 or decay_steps < 0 or warmup_steps + decay_steps > num_steps:
        raise ValueError(
            "a schedule needs warmup_steps + decay_steps <= num_steps, all >= 0; got "
            f"{warmup_steps} + {decay_steps} and {num_steps}."
        )

    def schedule(step):
        done = jnp.clip((step - (num_steps - decay_steps)) / max(1, decay_steps), 0.0, 1.0)
        fall = done if decay == "linear" else 0.5 - 0.5 * jnp.cos(jnp.pi * done)
        ratio = 1.0 - (1.0 - final_ratio) * fall if decay_steps else 1.0
        return peak * _warmup(step, warmup_steps) * ratio

    return schedule


def multi_step(
    peak: jax.typing.ArrayLike,
    *,
    milestones: Sequence[tuple[int, float]],
    warmup_steps: int = 0,
) -> optax.Schedule:
    """Linear warm-up, then peak * ratio from each milestone (step, ratio) on."""
    steps = [step for step, _ in milestones]
    if steps != sorted(set(steps)):
        raise ValueError(f"milestones need rising steps, got {list(milestones)}.")

    def schedule(step):
        ratio = 1.0
        for start, value in milestones:
            ratio = jnp.where(step >= start, value, ratio)
        return peak * _warmup(step, warmup_steps) * ratio

    return schedule


def segments(
    peak: jax.typing.ArrayLike,
    parts: Sequence[tuple[int, float, float, Decay]],
    *,
    warmup_steps: int = 0,
) -> optax.Schedule:
    """Linear warm-up; then stretches of (num_steps, from, to, shape), as multiples of `peak`.

    The first step of a stretch has its `from`, and the first step after it would have its `to`.
    After the last stretch the rate stays at its `to`.
    """
    if not parts or any(num_steps < 1 for num_steps, *_ in parts):
        raise ValueError(f"segments need a step or more each, and one of them; got {list(parts)}.")

    def schedule(step):
        ratio, first = jnp.asarray(parts[0][1], jnp.float32), 0
        for num_steps, begin, end, shape in parts:
            done = jnp.clip((step - first) / num_steps, 0.0, 1.0)
            moved = done if shape == "linear" else 0.5 - 0.5 * jnp.cos(jnp.pi * done)
            ratio = jnp.where(step >= first, begin + (end - begin) * moved, ratio)
            first += num_steps
        return peak * _warmup(step, warmup_steps) * ratio

    return schedule


def kimi_k2(
    peak: jax.typing.ArrayLike = 2e-4,
    *,
    num_steps: int,
    warmup_steps: int = 500,
    anneal_steps: int = 0,
) -> optax.Schedule:
    """Kimi K2's (arXiv:2507.20534, sec. 2.5): stable, cosine to 1/10, anneal to 7/200 of the peak.

    Of the num_steps before the anneal, 10/15.5 are warm-up and stable, 5.5/15.5 the cosine; over
    `anneal_steps` more the rate falls linearly from peak / 10.
    """
    decay_steps = round(num_steps * 5.5 / 15.5)
    pretrain = wsd(
        peak,
        num_steps=num_steps,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        final_ratio=0.1,
        decay="cosine",
    )

    def schedule(step):
        done = jnp.clip((step - num_steps) / max(1, anneal_steps), 0.0, 1.0)
        annealed = peak * (0.1 + (0.035 - 0.1) * done)
        return jnp.where(step < num_steps, pretrain(step), annealed)

    return schedule


def _warmup(step, warmup_steps: int):
    return jnp.minimum(1.0, (step + 1) / max(1, warmup_steps))
