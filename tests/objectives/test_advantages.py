"""Advantages at collection, against loops over groups and over a rollout's own tokens.

Letters: N rollouts, B sequences, S positions, M drawn tokens.
"""

import hypothesis
import numpy as np
import policy_by_hand as by_hand
import pytest
from hypothesis import strategies as st

from kanana_jax.objectives import advantages, gae

GROUP_N = np.array([7, 3, 7, 3, 3, 9, 9, 7])
REWARD_N = np.array([1.0, 0.25, 0.0, 0.5, 0.25, 0.1, 0.1, 0.0])


def per_group(fn):
    wanted = np.zeros(len(GROUP_N))
    for group in set(GROUP_N.tolist()):
        wanted[group == GROUP_N] = fn(REWARD_N[group == GROUP_N])
    return wanted


@pytest.mark.parametrize(
    ("estimate", "formula"),
    [
        (advantages.group_mean, lambda r: r - r.mean()),
        (
            advantages.leave_one_out,
            lambda r: [one - np.delete(r, k).mean() for k, one in enumerate(r)],
        ),
        (advantages.group_norm, lambda r: (r - r.mean()) / (r.std(ddof=1) + 1e-6)),
    ],
    ids=["group_mean", "leave_one_out", "group_norm"],
)
def test_groups_are_compared_with_themselves(estimate, formula):
    found_N = estimate(REWARD_N, GROUP_N)
    assert found_N.dtype == np.float64
    np.testing.assert_allclose(found_N, per_group(formula), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    "estimate", [advantages.group_mean, advantages.leave_one_out, advantages.group_norm]
)
def test_a_group_of_one_is_refused(estimate):
    with pytest.raises(ValueError, match=r"got 1 in the groups \[5\]"):
        estimate(np.array([1.0, 0.0, 1.0]), np.array([2, 2, 5]))


def test_rewards_without_groups_are_refused():
    with pytest.raises(ValueError, match="got 3 rewards and 2 groups"):
        advantages.group_mean(np.zeros(3), np.array([1, 1]))


def test_groups_with_one_reward_are_found():
    found_N = advantages.has_equal_rewards(REWARD_N, GROUP_N)
    np.testing.assert_array_equal(found_N, GROUP_N == 9)


def test_a_long_answer_is_punished_from_the_buffer_on():
    lengths = np.array([0, 80, 81, 90, 100, 250])
    wanted = [0.0, 0.0, -0.05, -0.5, -1.0, -1.0]
    np.testing.assert_allclose(advantages.overlong_penalty(lengths, 100, 20), wanted, atol=1e-15)
    with pytest.raises(ValueError, match="from 1 to max_length = 100, got 0"):
        advantages.overlong_penalty(lengths, 100, 0)


def tokens(seed=0):
    """Rewards on drawn tokens only, values everywhere."""
    batch, _ = by_hand.batch_of(stored=())
    rng = np.random.default_rng(seed)
    is_drawn_BS = batch.loss_mask > 0
    reward_BS, value_BS = rng.normal(size=(2, *is_drawn_BS.shape))
    return batch, np.where(is_drawn_BS, reward_BS, 0.0), value_BS, is_drawn_BS


@hypothesis.settings(deadline=None, max_examples=10)
@hypothesis.given(lam=st.floats(0.0, 1.0), gamma=st.floats(0.5, 1.0), seed=st.integers(0, 9))
def test_advantages_of_tokens_are_sums_over_what_is_drawn_later(lam, gamma, seed):
    """sum_k (gamma lambda)^k delta_{t + k}, k over the drawn tokens of the rollout."""
    batch, reward_BS, value_BS, is_drawn_BS = tokens(seed)
    wanted_BS = np.zeros(reward_BS.shape)
    for b, places in by_hand.drawn_runs(batch):
        r_M, v_M = reward_BS[b, places], value_BS[b, places]
        delta_M = r_M + gamma * np.append(v_M[1:], 0.0) - v_M
        for t, place in enumerate(places):
            powers = (gamma * lam) ** np.arange(len(places) - t)
            wanted_BS[b, place] = powers @ delta_M[t:]
    found = gae.gae(reward_BS, value_BS, is_drawn_BS, batch.segment_ids, lam=lam, gamma=gamma)
    np.testing.assert_allclose(found.advantage_BS, wanted_BS, rtol=1e-10, atol=1e-12)
    wanted_BS = np.where(is_drawn_BS, wanted_BS + value_BS, 0.0)
    np.testing.assert_allclose(found.return_BS, wanted_BS, rtol=1e-10, atol=1e-12)


def test_without_discount_advantages_are_the_rewards_to_come_minus_the_value():
    batch, reward_BS, value_BS, is_drawn_BS = tokens()
    found = gae.gae(reward_BS, value_BS, is_drawn_BS, batch.segment_ids, lam=1.0)
    for b, places in by_hand.drawn_runs(batch):
        to_come = np.cumsum(reward_BS[b, places][::-1])[::-1]
        np.testing.assert_allclose(found.return_BS[b, places], to_come, rtol=1e-10, atol=1e-12)


def test_whitened_numbers_have_mean_0_and_variance_1_where_drawn():
    _, _, value_BS, is_drawn_BS = tokens()
    white_BS = gae.whitened(3.0 * value_BS + 5.0, is_drawn_BS)
    np.testing.assert_allclose(white_BS[is_drawn_BS].mean(), 0.0, atol=1e-12)
    np.testing.assert_allclose(white_BS[is_drawn_BS].var(), 1.0, rtol=1e-6)
    assert (white_BS[~is_drawn_BS] == 0).all()
    assert (gae.whitened(value_BS, np.zeros_like(is_drawn_BS)) == 0).all()


def test_a_divergence_in_the_reward_is_k1_of_every_drawn_token():
    batch, reward_BS, value_BS, is_drawn_BS = tokens()
    old_BS, reference_BS = -np.abs(value_BS), -np.abs(value_BS.T.reshape(value_BS.shape))
    found_BS = gae.with_divergence(reward_BS, old_BS, reference_BS, is_drawn_BS, 0.1)
    for b, places in by_hand.drawn_runs(batch):
        total = reward_BS[b, places].sum()
        total -= 0.1 * (old_BS[b, places].sum() - reference_BS[b, places].sum())
        np.testing.assert_allclose(found_BS[b, places].sum(), total, rtol=1e-10)
    assert (found_BS[~is_drawn_BS] == 0).all()


def test_rewards_that_would_be_lost_are_refused():
    batch, reward_BS, value_BS, is_drawn_BS = tokens()
    lost = tuple(np.argwhere(~is_drawn_BS)[5])
    reward_BS[lost] = 1.0
    with pytest.raises(ValueError, match="put each on the last drawn token"):
        gae.gae(reward_BS, value_BS, is_drawn_BS, batch.segment_ids)
    with pytest.raises(ValueError, match="rewards must stand on tokens that the model drew"):
        gae.with_divergence(reward_BS, value_BS, value_BS, is_drawn_BS, 0.1)
