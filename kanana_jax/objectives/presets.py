"""Policy gradients by the names of their papers, with the settings of the papers or their code.

A name stands for a surrogate, a mean and an estimate of advantages. The first two are here; for
the third each function names one of `advantages` or `gae`, which runs as rollouts are collected.
"""

from typing import TypedDict, Unpack

from kanana_jax.objectives.corrections import Correction
from kanana_jax.objectives.critic import ValueLoss
from kanana_jax.objectives.divergences import Divergence
from kanana_jax.objectives.policy_gradient import PolicyGradient
from kanana_jax.objectives.squared import Squared, SquaredToken
from kanana_jax.objectives.surrogates import Cispo, Clipped, Reinforce, SequenceClipped


class Options(TypedDict, total=False):
    """The options of every preset; see `PolicyGradient`."""

    correction: Correction | None
    kl: Divergence
    kl_weight: float
    ptx_weight: float
    has_temperature: bool
    replays_routes: bool


def reinforce_loo(**options: Unpack[Options]) -> PolicyGradient:
    """RLOO (arXiv:2402.14740), one update a round; `advantages.leave_one_out`."""
    return PolicyGradient(surrogate=Reinforce(), **options)


def grpo(clip: float = 0.2, **options: Unpack[Options]) -> PolicyGradient:
    """arXiv:2402.03300, eq. 3; `advantages.group_norm`.

    The paper has kl="loss_k3" with kl_weight=0.04; by default there is no divergence.
    """
    return PolicyGradient(surrogate=Clipped(clip, clip), aggregation="sequence", **options)


def dr_grpo(constant_length: int, clip: float = 0.2, **options: Unpack[Options]) -> PolicyGradient:
    """arXiv:2503.20783, sec. 3.2; `advantages.group_mean`."""
    surrogate = Clipped(clip, clip)
    return PolicyGradient(
        surrogate=surrogate, aggregation="constant", constant_length=constant_length, **options
    )


def dapo(
    low: float = 0.2, high: float = 0.28, dual: float | None = None, **options: Unpack[Options]
) -> PolicyGradient:
    """arXiv:2503.14476, eq. 8; `advantages.group_norm` of groups whose rewards differ.

    `advantages.has_equal_rewards` finds the groups to draw anew, `advantages.overlong_penalty` is
    added to the rewards.
    """
    return PolicyGradient(surrogate=Clipped(low, high, dual), **options)


def gspo(low: float = 3e-4, high: float = 4e-4, **options: Unpack[Options]) -> PolicyGradient:
    """arXiv:2507.18071, sec. 5.1 for the widths; `advantages.group_norm`."""
    return PolicyGradient(surrogate=SequenceClipped(low, high), aggregation="sequence", **options)


def cispo(high: float = 5.0, **options: Unpack[Options]) -> PolicyGradient:
    """arXiv:2506.13585, sec. 3.1, with the bound of arXiv:2510.13786; `advantages.group_norm`."""
    return PolicyGradient(surrogate=Cispo(high=high), **options)


def ppo(
    clip: float = 0.2,
    dual: float | None = 3.0,
    critic: ValueLoss = ValueLoss(),  # noqa: B008
    **options: Unpack[Options],
) -> PolicyGradient:
    """arXiv:1707.06347 with the bound of arXiv:1912.09729; `gae.gae`, whitened.

    The model has a scalar head, which is trained along with the policy.
    """
    return PolicyGradient(surrogate=Clipped(clip, clip, dual), critic=critic, **options)


def k15(tau: float, **options: Unpack[Options]) -> PolicyGradient:
    """Kimi K1.5 and K2 (arXiv:2501.12599, arXiv:2507.20534); `advantages.group_mean`.

    Every rollout's square counts in full and the sum is divided by the batch's tokens, so that the
    learning rate is that of a mean over tokens.
    """
    return PolicyGradient(surrogate=Squared(tau), **options)


def k25(kappa: float = 1e-3, trust: float = 0.2, **options: Unpack[Options]) -> PolicyGradient:
    """Kimi K2.5 and DPPO (arXiv:2602.02276, arXiv:2602.04879); `advantages.group_mean`.

    The ratio is to the sampler, so there is no correction.
    """
    return PolicyGradient(surrogate=SquaredToken(kappa, trust), ratio_to="sampler", **options)
