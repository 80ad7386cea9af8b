"""The losses of reinforcement learning by name: what is minimised, and what an advantage is.

The divergence "reward_k1" stands in the rewards and not in the loss; see `objectives.gae`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from kanana_jax import config
from kanana_jax.objectives import advantages, corrections, presets
from kanana_jax.objectives.policy_gradient import PolicyGradient

Estimate = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of rewards (N,) and groups (N,)

_CORRECTIONS: dict[str, corrections.Correction | None] = {
    "none": None,
    "tis": corrections.Truncated(),
    "icepop": corrections.Masked(),
    "sequence_mask": corrections.SequenceMask(),
}
# PPO's advantages are of tokens, not of groups.
_ESTIMATES: dict[str, Estimate] = {
    "reinforce": advantages.leave_one_out,
    "grpo": advantages.group_norm,
    "dr_grpo": advantages.group_mean,
    "dapo": advantages.group_norm,
    "gspo": advantages.group_norm,
    "cispo": advantages.group_norm,
    "squared": advantages.group_mean,
    "squared_token": advantages.group_mean,
}


def estimate(cfg: config.RLConfig) -> Estimate | None:
    """Advantages of tries; None where `gae` gives those of tokens."""
    return _ESTIMATES.get(cfg.loss)


def objective(cfg: config.RLConfig) -> PolicyGradient:
    """The loss of the settings; raises ConfigError where they do not fit together."""
    is_in_loss = cfg.kl not in ("none", "reward_k1")
    options: dict[str, Any] = {
        "correction": _CORRECTIONS[cfg.correction],
        "kl": cfg.kl if is_in_loss else "none",
        "kl_weight": cfg.kl_weight if is_in_loss else 0.0,
        "ptx_weight": cfg.stored_weight if cfg.stored_share else 0.0,
        "has_temperature": has_temperature(cfg),
        "replays_routes": cfg.routing != "live",
    }
    rollouts = cfg.rollouts
    make: dict[str, Callable[[], PolicyGradient]] = {
        "reinforce": lambda: presets.reinforce_loo(**options),
        "grpo": lambda: presets.grpo(**options),
        "dr_grpo": lambda: presets.dr_grpo(rollouts.max_tokens * rollouts.max_turns, **options),
        "dapo": lambda: presets.dapo(**options),
        "gspo": lambda: presets.gspo(**options),
        "cispo": lambda: presets.cispo(**options),
        "ppo": lambda: presets.ppo(**options),
        "squared": lambda: presets.k15(cfg.tau, **options),
        "squared_token": lambda: presets.k25(cfg.tau, **options),
    }
    try:
        return make[cfg.loss]()
    except ValueError as error:
        raise config.ConfigError(f"rl.loss={cfg.loss}: {error}") from error


def has_temperature(cfg: config.RLConfig) -> bool:
    """Whether tokens are drawn at a temperature other than 1."""
    return cfg.rollouts.temperature != 1.0 or cfg.temperature_end not in (0.0, 1.0)
