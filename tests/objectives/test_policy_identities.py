"""What gradients are in the mean, summed over all tokens of a policy with five.

    sum_a p(a) w(a) d log pi(a) / d theta        pi = softmax(theta), w of an objective

Letters: A tokens.
"""

import jax
import jax.numpy as jnp
import numpy as np
import policy_by_hand as by_hand
import pytest

from kanana_jax.batch import Batch
from kanana_jax.objectives import divergences, presets
from kanana_jax.objectives.policy_gradient import PolicyGradient
from kanana_jax.objectives.surrogates import Reinforce

RNG = np.random.default_rng(2)
THETA_A, REF_A, BASE_A = RNG.normal(0, 0.7, (3, 5))


def log_softmax(x_A):
    return x_A - np.log(np.exp(x_A).sum())


LOGP_A, REFERENCE_A, OLD_A = map(log_softmax, (THETA_A, REF_A, BASE_A))


def batch_of_tokens(old_A, reference_A=REFERENCE_A, advantage_A=None) -> Batch:
    """Every token as a rollout of its own."""
    ones, zeros = np.ones((5, 1), np.int32), np.zeros((5, 1), np.int32)
    mask = np.ones((5, 1), np.float32)
    advantage_A = np.zeros(5) if advantage_A is None else advantage_A
    column = {"advantage": advantage_A, "old": old_A, "sampler": old_A, "reference": reference_A}
    extra = {name: np.float32(x[:, None]) for name, x in column.items()}
    return Batch(zeros, zeros, zeros, ones, mask, mask, extra=extra)


def mean_gradient(objective, batch, drawn_by_A, logp_A=LOGP_A):
    """Of the loss, if `drawn_by_A` draws the tokens."""
    logp_BS, totals = np.float32(logp_A[:, None]), objective.totals(batch)
    w_A = np.float64(objective.coefficients(logp_BS, batch, totals, {})[:, 0]) * 5
    score_AA = np.eye(5) - np.exp(logp_A)  # d log pi(a) / d theta
    return -(drawn_by_A * w_A) @ score_AA


def divergence_gradient(of_theta, x_A):
    with jax.enable_x64(True):
        return np.asarray(jax.grad(of_theta)(jnp.asarray(x_A)))


def reverse(theta_A):
    logp_A = jax.nn.log_softmax(theta_A)
    return jnp.sum(jnp.exp(logp_A) * (logp_A - REFERENCE_A))


def forward(theta_A):
    return jnp.sum(np.exp(REFERENCE_A) * (REFERENCE_A - jax.nn.log_softmax(theta_A)))


def only_divergence(kl):
    return PolicyGradient(surrogate=Reinforce(), kl=kl, kl_weight=1.0)


@pytest.mark.parametrize(
    ("kl", "divergence"), [("loss_k2", reverse), ("loss_rk3", reverse), ("loss_k3", forward)]
)
def test_a_divergence_in_the_loss_has_this_gradient_on_its_own_tokens(kl, divergence):
    found_A = mean_gradient(only_divergence(kl), batch_of_tokens(LOGP_A), np.exp(LOGP_A))
    wanted_A = divergence_gradient(divergence, THETA_A)
    np.testing.assert_allclose(found_A, wanted_A, rtol=1e-5, atol=1e-7)
    other_A = divergence_gradient(forward if divergence is reverse else reverse, THETA_A)
    assert np.abs(found_A - other_A).max() > 0.02


def test_with_a_live_ratio_the_gradient_is_exact_on_tokens_of_another_policy():
    batch, drawn_by_A = batch_of_tokens(OLD_A), np.exp(OLD_A)
    found_A = mean_gradient(only_divergence("loss_rk3"), batch, drawn_by_A)
    wanted_A = divergence_gradient(reverse, THETA_A)
    np.testing.assert_allclose(found_A, wanted_A, rtol=1e-5, atol=1e-7)
    without_A = mean_gradient(only_divergence("loss_k2"), batch, drawn_by_A)
    assert np.abs(without_A - wanted_A).max() > 0.02


def test_the_log_ratio_as_a_loss_has_no_gradient_in_the_mean():
    """Which is why it is refused. A weight of -1 on every token is what it would give."""
    ones = batch_of_tokens(LOGP_A, advantage_A=-np.ones(5))
    found_A = mean_gradient(presets.reinforce_loo(), ones, np.exp(LOGP_A))
    np.testing.assert_allclose(found_A, 0.0, atol=1e-7)


def test_estimates_have_the_divergence_as_their_mean():
    kl = np.sum(np.exp(LOGP_A) * (LOGP_A - REFERENCE_A))
    k3_A = np.float64(divergences.k3(jnp.float32(REFERENCE_A - LOGP_A)))
    np.testing.assert_allclose(np.exp(LOGP_A) @ k3_A, kl, rtol=1e-5)
    assert (k3_A >= 0).all()
    # The digits of a small one, which exp(x) - 1 - x would lose in float32.
    np.testing.assert_allclose(divergences.k3(jnp.float32([[1e-3]])), 5.0017e-7, rtol=0.05)


AT_OLD = {
    "grpo": presets.grpo(),
    "dapo": presets.dapo(),
    "ppo": presets.ppo(),
    "gspo": presets.gspo(),
    "cispo": presets.cispo(),
    "k15": presets.k15(0.05),
    "k25": presets.k25(),
}


@pytest.mark.parametrize("name", AT_OLD)
def test_the_first_update_of_a_round_is_that_of_reinforce(name):
    """At pi = pi_o = mu, rollouts of several turns: A times what a token weighs."""
    objective, (batch, logp_BS) = AT_OLD[name], by_hand.batch_of(stored=(), fill=0.0)
    batch = batch._replace(extra=batch.extra | {"old": logp_BS, "sampler": logp_BS})
    plain = PolicyGradient(surrogate=Reinforce(), aggregation=objective.aggregation)
    totals = objective.totals(batch)
    found_BS = objective.coefficients(logp_BS, batch, totals, {})
    wanted_BS = plain.coefficients(None, batch, totals, {})
    np.testing.assert_allclose(found_BS, wanted_BS, rtol=1e-6)
    assert np.any(np.asarray(wanted_BS) != 0)
