"""Estimates of the divergence KL(pi, ref) from tokens that pi drew, as terms of a loss.

    d = log pi - log ref         k3 = exp(-d) - 1 + d         r = pi / pi_b

    loss_k2    d^2 / 2          g = -d              the gradient of KL(pi, ref), exactly
    loss_rk3   r k3             g = -r d            the same, also where pi_b drew the tokens
    loss_k3    k3               g = exp(-d) - 1     that of KL(ref, pi): the forward divergence

g = -d loss / d log pi. In the mean over tokens that pi draws, g times the gradient of log pi is
minus the gradient named (arXiv:2512.21852; J. Schulman, "Approximating KL divergence", 2020). d
itself, k1, estimates the divergence without bias, but as a loss its gradient is 0 in the mean: it
belongs in the reward, see `gae.with_divergence`. Letters: B sequences, S positions.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from kanana_jax.objectives.surrogates import MAX_LOG_RATIO

Divergence = Literal["none", "loss_k2", "loss_rk3", "loss_k3"]
_NAMES = ("loss_k2", "loss_rk3", "loss_k3")


def check(name: str, weight: float) -> None:
    """ValueError where `name` is no divergence for a loss, or where `weight` does not fit it."""
    if name in ("loss_k1", "reward_k1"):
        raise ValueError(
            f"{name!r} is no term of a loss: over tokens that pi draws, the mean gradient of "
            "log pi - log ref is 0; shape the rewards with gae.with_divergence, or take loss_k2 "
            "or loss_rk3"
        )
    if name not in ("none", *_NAMES):
        raise ValueError(f"kl must be one of {('none', *_NAMES)}, got {name!r}")
    if (name == "none") != (weight == 0.0) or not 0.0 <= weight < float("inf"):
        raise ValueError(
            f"kl and kl_weight must be given together, got {name!r} and {weight}; "
            "the weight is a positive number, 0.001 to 0.05 is usual"
        )


def k3(log_ratio_BS: Float[Array, "B S"]) -> Float[Array, "B S"]:
    """exp(x) - 1 - x, x the log-ratio of the other policy to the one that drew; never below 0."""
    x_BS = jnp.minimum(log_ratio_BS, MAX_LOG_RATIO)
    # For small x, exp(x) - 1 would lose the digits of x^2 / 2.
    return jnp.expm1(x_BS) - x_BS


def terms(
    name: Divergence, d_BS: Float[Array, "B S"], log_ratio_BS: Float[Array, "B S"]
) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
    """The loss of every token, and g, from d and log r, for one of the three names."""
    if name == "loss_k2":
        return 0.5 * d_BS**2, -d_BS
    if name == "loss_k3":
        return k3(-d_BS), jnp.expm1(jnp.minimum(-d_BS, MAX_LOG_RATIO))
    ratio_BS = jnp.exp(jnp.minimum(log_ratio_BS, MAX_LOG_RATIO))
    return ratio_BS * k3(-d_BS), -ratio_BS * d_BS
