"""Learning rate against step. Each function returns an optax schedule: step -> rate.

Step 0 is the first update. With warm-up the rate there is peak / warmup_steps, not zero; a decay to
final_ratio ends just after the last step, so no update is spent at a rate of zero. `peak` may be a
traced scalar.
"""

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


def _warmup(step, warmup_steps: int):
    return jnp.minimum(1.0, (step + 1) / max(1, warmup_steps))
