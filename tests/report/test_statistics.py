"""Bands cover the true difference of simulated runs as often as they say."""

import math

import numpy as np
import pytest

from kanana_jax.report import pairs, statistics
from kanana_jax.report.statistics import Heldout

TRUE = 0.3  # bits per byte
TRIALS = 1500


def simulate(random, *, seeds, sequences, of_seed, of_sequence, of_rest):
    """Two arms' runs whose losses differ by TRUE and by the deviations named, in bits per byte."""
    bytes_S = random.integers(90, 129, sequences).astype(float)
    difficulty_S = random.normal(3.0, 0.8, sequences)  # shared by both arms, so it cancels
    sequence_S = random.normal(0, of_sequence, sequences)
    arms = ({}, {})
    for seed in range(seeds):
        rest_S = random.normal(0, of_rest, sequences)
        shift_S = TRUE + random.normal(0, of_seed) + sequence_S + rest_S
        for arm, bpb_S in zip(arms, (difficulty_S + shift_S, difficulty_S), strict=True):
            arm[seed] = Heldout(bpb_S * bytes_S * math.log(2), bytes_S)
    return arms


DEVIATIONS = {
    "sequences only": {"of_seed": 0.0, "of_sequence": 0.1, "of_rest": 0.0},
    "seeds and rest": {"of_seed": 0.05, "of_sequence": 0.0, "of_rest": 0.2},
    "seeds above all": {"of_seed": 0.2, "of_sequence": 0.02, "of_rest": 0.05},
    "all three": {"of_seed": 0.03, "of_sequence": 0.2, "of_rest": 0.2},
}


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("deviations", DEVIATIONS.values(), ids=list(DEVIATIONS))
def test_a_band_covers_the_true_difference_as_often_as_it_says(seeds, deviations):
    random = np.random.default_rng(seeds)
    found = [
        statistics.difference(*simulate(random, seeds=seeds, sequences=64, **deviations))
        for _ in range(TRIALS)
    ]
    covered = np.mean([abs(one.value - TRUE) < one.band for one in found])
    # Three binomial errors below 95 %; somewhat above is allowed, since with few degrees of
    # freedom the approximation errs on the safe side.
    assert 0.933 < covered < 0.99, covered


@pytest.mark.long
def test_one_seed_covers_the_difference_that_this_seed_has_and_no_more():
    random = np.random.default_rng(1)
    quiet = {"of_seed": 0.0, "of_sequence": 0.1, "of_rest": 0.1}
    loud = quiet | {"of_seed": 0.2}
    for deviations, least, most in ((quiet, 0.933, 0.967), (loud, 0.0, 0.5)):
        found = [
            statistics.difference(*simulate(random, seeds=1, sequences=64, **deviations))
            for _ in range(TRIALS)
        ]
        covered = np.mean([abs(one.value - TRUE) < one.band for one in found])
        assert least < covered < most


def test_the_smallest_difference_seen_is_told_from_none_four_times_in_five():
    random = np.random.default_rng(2)
    deviations = {"of_seed": 0.1, "of_sequence": 0.1, "of_rest": 0.1}
    sizes = [
        statistics.difference(*simulate(random, seeds=5, sequences=64, **deviations)).smallest_seen
        for _ in range(200)
    ]
    size, found = float(np.mean(sizes)), []
    for _ in range(TRIALS):
        one, other = simulate(random, seeds=5, sequences=64, **deviations)
        bpb_of = {seed: run.bytes_S * math.log(2) for seed, run in one.items()}
        moved = {
            seed: Heldout(run.nats_S + (size - TRUE) * bpb_of[seed], run.bytes_S)
            for seed, run in one.items()
        }
        found.append(statistics.difference(moved, other).outcome(margin=0.0))
    assert 0.7 < np.mean([outcome == "worse" for outcome in found]) < 0.9


def test_pairs_see_far_smaller_differences_than_runs_judged_apart():
    arms = simulate(
        np.random.default_rng(3), seeds=1, sequences=64, of_seed=0, of_sequence=0.1, of_rest=0
    )
    errors = [statistics.bits_per_byte(arm[0])[1] for arm in arms]
    assert statistics.difference(*arms).band < 0.25 * 2 * math.hypot(*errors)


def test_a_contrast_of_four_is_the_difference_of_two_differences():
    random = np.random.default_rng(4)
    kinds = {"of_seed": 0.1, "of_sequence": 0.1, "of_rest": 0.1}
    one, other = simulate(random, seeds=3, sequences=8, **kinds)
    third = {seed: Heldout(run.nats_S * 1.1, run.bytes_S) for seed, run in one.items()}
    found = statistics.contrast([(1.0, one), (-1.0, other), (-1.0, third), (1.0, one)])
    parts = statistics.difference(one, other).value + statistics.difference(one, third).value
    np.testing.assert_allclose(found.value, parts, rtol=1e-12)


def test_bits_per_byte_weigh_sequences_by_their_bytes():
    heldout = Heldout(np.array([100.0, 300.0]) * math.log(2), np.array([100.0, 100.0]))
    bpb, stderr = statistics.bits_per_byte(heldout)
    np.testing.assert_allclose([bpb, stderr], [2.0, 1.0])
    assert math.isnan(statistics.bits_per_byte(Heldout(np.ones(1), np.ones(1)))[1])


@pytest.mark.parametrize(
    ("value", "band", "outcome"),
    [(-0.2, 0.1, "better"), (0.2, 0.1, "worse"), (0.01, 0.03, "equal"), (0.02, 0.01, "equal"),
     (0.03, 0.03, "not resolved"), (0.0, 0.2, "not resolved"), (0.04, 0.02, "worse")],
)  # fmt: skip
def test_the_band_decides_the_outcome(value, band, outcome):
    assert statistics.Difference(value, band, 0.0, 3).outcome(margin=0.05) == outcome


def test_what_counts_as_equal_is_told():
    apart = statistics.Difference(0.022, 0.004, 0.005, 3)
    assert "+0.0220 +- 0.0040 bits per byte, equal within 0.05 (" in pairs.described(apart)
    assert "bits per byte, worse (" in pairs.described(statistics.Difference(0.06, 0.004, 0.005, 3))


def test_one_number_per_seed_gives_students_band():
    one_K = np.array([1.0, 2.0, 3.0])
    found = statistics.difference_of_seeds(one_K, np.zeros(3))
    np.testing.assert_allclose(found.value, 2.0)
    np.testing.assert_allclose(found.band, 4.302652729911275 / math.sqrt(3), rtol=1e-9)
    with pytest.raises(statistics.UnpairedError, match="two or more, got 1"):
        statistics.difference_of_seeds(one_K[:1], one_K[:1])


def test_equal_runs_are_equal_with_a_band_of_zero():
    one, _ = simulate(
        np.random.default_rng(5), seeds=3, sequences=8, of_seed=0.1, of_sequence=0.1, of_rest=0.1
    )
    found = statistics.difference(one, one)
    assert (found.value, found.band, found.outcome(margin=1e-9)) == (0.0, 0.0, "equal")


def test_runs_that_cannot_be_paired_are_refused():
    run = Heldout(np.ones(4), np.full(4, 100.0))
    with pytest.raises(statistics.UnpairedError, match="no seed in common"):
        statistics.difference({0: run}, {1: run})
    with pytest.raises(statistics.UnpairedError, match="different held-out sequences"):
        statistics.difference({0: run}, {0: Heldout(np.ones(4), np.full(4, 101.0))})
    with pytest.raises(statistics.UnpairedError, match="different held-out sequences"):
        statistics.difference({0: run}, {0: run._replace(text="another")})
    with pytest.raises(statistics.UnpairedError, match="got 1"):
        single = Heldout(np.ones(1), np.ones(1))
        statistics.difference({0: single}, {0: single})
