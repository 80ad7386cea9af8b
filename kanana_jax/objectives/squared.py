"""Surrogates with a square of the log-ratio instead of a clip.

    r_t = pi / pi_b         Lambda = sum_t log r_t, over a rollout

    Squared       loss of a rollout = (A - tau Lambda)^2 / (2 tau)         g_t = A - tau Lambda
    SquaredToken  l_t = -[trust_t] A_t r_t + kappa (log r_t)^2             g_t = [..] A_t r_t
                                                                               - 2 kappa log r_t

    trust_t = 0 where A_t > 0 and pi - mu > delta, or where A_t < 0 and pi - mu < -delta; else 1

At pi = pi_b both pull as REINFORCE does, so learning rates carry over. mu is the policy as the
tokens were drawn; see `surrogates` for the other letters.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from kanana_jax.objectives import segments
from kanana_jax.objectives.surrogates import MAX_LOG_RATIO, Drawn, Terms


@dataclass(frozen=True)
class Squared:
    """Kimi K1.5 (arXiv:2501.12599, sec. 2.3) and K2 (arXiv:2507.20534), divided by 2 tau.

    Equal to -A Lambda + tau / 2 Lambda^2 up to a constant: a larger `tau` keeps the policy
    closer to pi_b. A rollout's advantage is one number. A rollout's loss is spread evenly over its
    tokens, so that the weight of a token is the weight of the loss. ValueError where out of range.
    """

    tau: float

    needs_values = True

    def __post_init__(self):
        if not 0.0 < self.tau < float("inf"):
            raise ValueError(
                f"tau must be a positive number, got {self.tau}; it multiplies the sum of a "
                "rollout's log-ratios, which is compared with the advantage: 0.05, for example"
            )

    def __call__(self, drawn: Drawn) -> Terms:
        total_BS = segments.sums(drawn.log_ratio_BS, drawn.batch)
        pull_BS = drawn.advantage_BS - self.tau * total_BS
        loss_BS = pull_BS**2 / (2.0 * self.tau) / drawn.lengths()
        return Terms(loss_BS, pull_BS, jnp.zeros_like(drawn.is_drawn_BS))


@dataclass(frozen=True)
class SquaredToken:
    """Kimi K2.5 (arXiv:2602.02276) with the trust region of DPPO (arXiv:2602.04879).

    The region bounds probabilities, so the ratio of a rare token may change a lot. `trust` is
    delta. ValueError where out of range.
    """

    kappa: float = 1e-3
    trust: float = 0.2

    needs_values = True

    def __post_init__(self):
        if not (0.0 < self.kappa < float("inf") and 0.0 < self.trust <= 1.0):
            raise ValueError(
                f"kappa must be a positive number and trust lie in (0, 1], got {self.kappa} and "
                f"{self.trust}; 0.001 and 0.2 are usual"
            )

    def __call__(self, drawn: Drawn) -> Terms:
        advantage_BS, log_ratio_BS = drawn.advantage_BS, drawn.log_ratio_BS
        moved_BS = jnp.exp(drawn.logp_BS) - jnp.exp(drawn.sampler_BS)
        is_far_BS = jnp.sign(advantage_BS) * moved_BS > self.trust
        gain_BS = advantage_BS * jnp.exp(jnp.minimum(log_ratio_BS, MAX_LOG_RATIO))
        gain_BS = jnp.where(is_far_BS, 0.0, gain_BS)
        loss_BS = -gain_BS + self.kappa * log_ratio_BS**2
        still_BS = jnp.where(log_ratio_BS > MAX_LOG_RATIO, 0.0, gain_BS)
        return Terms(loss_BS, still_BS - 2.0 * self.kappa * log_ratio_BS, is_far_BS)
