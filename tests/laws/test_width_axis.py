"""Shifts of the best rate over widths, against known ones."""

import numpy as np
import pytest

from kanana_jax.laws import errors, width_axis

RATES_R = np.repeat([0.004, 0.01, 0.025, 0.06, 0.15], 3)


def sweeps(octaves, sigma=0.0, seed=0, curvature=0.05):
    random, found = np.random.default_rng(seed), {}
    for width in (32, 64, 128):
        best = 0.03 * (width / 32) ** octaves
        loss_R = 2.0 + curvature * np.log(RATES_R / best) ** 2
        found[width] = width_axis.Losses(RATES_R, loss_R + random.normal(0, sigma, len(RATES_R)))
    return found


@pytest.mark.parametrize("octaves", [-1.0, 0.0, 0.5])
def test_a_shift_is_found_and_its_cost_at_the_widest(octaves):
    found = width_axis.shift(sweeps(octaves), num_draws=10)
    np.testing.assert_allclose([found.octaves, *found.band], octaves, atol=1e-6)
    cost = 0.05 * (2 * octaves * np.log(2)) ** 2 / 2.0
    np.testing.assert_allclose(found.excess, cost, atol=1e-9)
    assert found.is_bracketed


def test_the_band_holds_the_truth():
    num_held = 0
    for seed in range(40):
        found = width_axis.shift(sweeps(-0.5, sigma=0.02, seed=seed), num_draws=200, seed=seed)
        num_held += found.band.low < -0.5 < found.band.high
        assert 0.02 < found.band.high - found.band.low < 1.0
    assert num_held >= 34


def test_a_best_rate_beyond_the_sweep_is_said():
    assert not width_axis.shift(sweeps(-2.0), num_draws=10).is_bracketed


def test_one_width_or_two_rates_are_refused():
    with pytest.raises(errors.LawError, match="two widths or more"):
        width_axis.shift({32: sweeps(0.0)[32]})
    few = width_axis.Losses(np.array([0.1, 0.2]), np.ones(2))
    with pytest.raises(errors.LawError, match="3 or more distinct positive rates"):
        width_axis.shift({32: few, 64: few})
