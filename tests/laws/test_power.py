"""Powers are those that simulated studies have."""

import numpy as np
import pytest

from kanana_jax.laws import errors, power, recovery


@pytest.mark.parametrize("num_seeds", [3, 8])
def test_the_smallest_difference_is_seen_four_times_in_five(num_seeds):
    difference = power.smallest_difference(0.2, num_seeds)
    random = np.random.default_rng(0)
    paired = difference + 0.2 * random.standard_normal((20_000, num_seeds))
    error = paired.std(axis=1, ddof=1) / np.sqrt(num_seeds)
    limit = {3: 4.303, 8: 2.365}[num_seeds]  # Student's t, 95 %, two-sided
    share = np.mean(np.abs(paired.mean(axis=1)) > limit * error)
    assert share == pytest.approx(0.8, abs=0.01)


def test_seeds_needed_are_the_fewest_that_see_it():
    needed = power.seeds_needed(0.2, 0.15)
    assert power.smallest_difference(0.2, needed) <= 0.15
    assert power.smallest_difference(0.2, needed - 1) > 0.15
    with pytest.raises(errors.LawError, match="more than 1000 seeds"):
        power.seeds_needed(1.0, 0.01)


def test_a_pilot_of_three_seeds_says_how_little_it_knows():
    random = np.random.default_rng(1)
    losses = random.standard_normal((4_000, 2, 3))
    found = [power.pilot(one, other) for one, other in losses]
    assert np.mean([one.sd_high > np.sqrt(2) for one in found]) == pytest.approx(0.9, abs=0.02)
    with pytest.raises(errors.LawError, match="two seeds or more"):
        power.pilot(np.ones(1), np.ones(1))


def test_errors_of_parameters_are_the_spread_of_fits():
    """`measured` has the spreads of ten Huber fits in docs/laws.md, each known to a quarter."""
    found = power.parameter_errors(recovery.TRUTH, recovery.points(), 0.003)
    measured = {"alpha": 0.004, "beta": 0.007, "lam": 0.015, "tau_1": 0.021, "tau_2": 0.010}
    for name, spread in measured.items():
        assert 0.5 < found[name] / spread < 2.0, (name, found[name])
    doubled = power.parameter_errors(recovery.TRUTH, recovery.points(), 0.006)
    assert doubled["E"] == pytest.approx(2 * found["E"])


def test_a_design_that_leaves_parameters_open_is_refused():
    one_mix = recovery.points(mixes=(recovery.MIXES[0],))
    with pytest.raises(errors.LawError, match="no loss of this design depends on tau_1"):
        power.parameter_errors(recovery.TRUTH, one_mix, 0.003)
