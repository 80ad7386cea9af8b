"""The loss of a reward model against its formula in numpy float64, pair by pair.

Letters: B sequences, S positions.
"""

import numpy as np
import pytest
from test_preference_loss import NUM_PAIRS, ROWS, S, batch_of

from kanana_jax.objectives import pairs as pairs_lib
from kanana_jax.objectives.reward import Reward


def ends(batch):
    """(row, last position of an answer's targets), two for every pair, the chosen one first."""
    found = []
    for b, segments in enumerate(batch.segment_ids):
        for number in range(1, segments.max() + 1):
            counted = np.flatnonzero((segments == number) & (batch.loss_mask[b] == 1))
            found.append((b, counted[-1]))
    return found[::2], found[1::2]


def by_hand(scalar_BS, batch, c):
    """(loss, d loss / d scalar) in float64."""
    r = np.float64(scalar_BS)
    slope_BS, loss = np.zeros(r.shape), 0.0
    for chosen, rejected in zip(*ends(batch), strict=True):
        margin, level = r[chosen] - r[rejected], r[chosen] + r[rejected]
        loss += np.logaddexp(0.0, -margin) + c * level**2
        wrong = 1.0 / (1.0 + np.exp(margin))
        slope_BS[chosen] = -wrong + 2 * c * level
        slope_BS[rejected] = wrong + 2 * c * level
    return loss / NUM_PAIRS, slope_BS / NUM_PAIRS


def scalars():
    return np.float32(np.random.default_rng(0).normal(0.3, 2.0, (len(ROWS), S)))


@pytest.mark.parametrize("c", [0.0, 0.01, 0.5])
def test_loss_and_weights_are_those_of_the_formula(c):
    objective, batch, scalar_BS = Reward(c), batch_of(), scalars()
    totals = objective.totals(batch)
    loss, slope_BS = by_hand(scalar_BS, batch, c)
    seen = objective.seen(scalar_BS, 0 * scalar_BS, batch, totals, {})
    np.testing.assert_allclose(seen.sums["loss"], loss, rtol=2e-6)
    w_BS = objective.coefficients(scalar_BS, batch, totals, {})
    np.testing.assert_allclose(w_BS, -slope_BS, rtol=1e-5, atol=1e-8)


def test_weights_are_finite_differences_of_the_loss():
    """Of the float64 formula, so that neither it nor the weights can be wrong alone."""
    c, batch, scalar_BS = 0.1, batch_of(), np.float64(scalars())
    w_BS = Reward(c).coefficients(np.float32(scalar_BS), batch, np.float32(NUM_PAIRS), {})
    for place in [*ends(batch)[0][:3], *ends(batch)[1][:3], (0, 0), (2, 0)]:
        moved = [scalar_BS.copy(), scalar_BS.copy()]
        moved[0][place] += 1e-5
        moved[1][place] -= 1e-5
        slope = (by_hand(moved[0], batch, c)[0] - by_hand(moved[1], batch, c)[0]) / 2e-5
        np.testing.assert_allclose(w_BS[place], -slope, rtol=1e-4, atol=1e-8)


def test_figures_are_means_over_the_pairs():
    objective, batch, scalar_BS = Reward(0.0), batch_of(), scalars()
    chosen, rejected = (np.array([scalar_BS[place] for place in side]) for side in ends(batch))
    sums = objective.seen(scalar_BS, scalar_BS, batch, objective.totals(batch), {}).sums
    np.testing.assert_allclose(sums["accuracy"], np.mean(chosen > rejected))
    np.testing.assert_allclose(sums["margin"], np.mean(chosen - rejected), rtol=1e-5)
    np.testing.assert_allclose(sums["chosen_reward"], np.mean(chosen), rtol=1e-5)
    np.testing.assert_allclose(sums["rejected_reward"], np.mean(rejected), rtol=1e-5)


def test_a_reward_is_read_at_the_last_target_of_an_answer_even_before_other_tokens():
    batch = batch_of((((1, 3), (1, 2)),))
    # A template may write what is no target behind an answer's EOS.
    mask_BS = batch.loss_mask.copy()
    mask_BS[0, 3] = 0
    at_end_BS = pairs_lib.ends(batch._replace(loss_mask=mask_BS))
    assert np.flatnonzero(at_end_BS).tolist() == [2, 6]


def test_centering_alone_pulls_the_level_to_zero():
    batch = batch_of((((0, 1), (0, 1)),))
    scalar_BS = np.float32(np.full((1, S), 3.0))
    found = [Reward(c).coefficients(scalar_BS, batch, 1.0, {})[0, :2] for c in (0.0, 0.01)]
    # sum r is 6: each reward is pulled by 2 c 6 beside the pull of the margin.
    np.testing.assert_allclose(found[0] - found[1], [0.12, 0.12], rtol=1e-5)


@pytest.mark.parametrize("centering", [-0.1, float("nan"), float("inf")])
def test_a_centering_without_meaning_is_refused(centering):
    with pytest.raises(ValueError, match="centering must be a number from 0, got"):
        Reward(centering)
