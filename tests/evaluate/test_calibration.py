import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanana_jax.config import ConfigError
from kanana_jax.evaluate import calibration

_ANSWERS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()),
    min_size=2,
    max_size=60,
)


def _arrays(answers):
    confidence, right = zip(*answers, strict=True)
    return np.array(confidence), np.array(right)


def test_ece_is_the_gap_between_confidence_and_accuracy():
    confidence = np.repeat([0.2, 0.8], 50)
    right = np.concatenate([np.arange(50) < 20, np.arange(50) < 25])  # 0.4 and 0.5
    assert calibration.measure(confidence, right, num_bins=2).ece == pytest.approx(0.25)


def test_confidence_that_tells_the_truth_has_no_error():
    confidence = np.repeat([0.1, 0.7], 100)
    right = np.concatenate([np.arange(100) < 10, np.arange(100) < 70])
    found = calibration.measure(confidence, right)
    assert found.ece == pytest.approx(0.0, abs=1e-12)
    assert found.accuracy == pytest.approx(0.4) and found.confidence == pytest.approx(0.4)
    assert found.brier == pytest.approx((0.1 * 0.9 + 0.7 * 0.3) / 2)


def test_bins_have_equal_mass():
    rng = np.random.default_rng(0)
    bins = calibration.reliability(rng.random(1000) ** 3, rng.random(1000) < 0.5)
    np.testing.assert_array_equal(bins.count_B, np.full(10, 100))
    assert (np.diff(bins.confidence_B) > 0).all()


@given(_ANSWERS, st.randoms(use_true_random=False))
def test_the_order_of_the_answers_does_not_matter(answers, rng):
    first = calibration.reliability(*_arrays(answers))
    rng.shuffle(answers)
    second = calibration.reliability(*_arrays(answers))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert first.count_B.sum() == len(answers)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_applied_is_found(temperature):
    rng = np.random.default_rng(1)
    truth = rng.random(20_000)
    right = rng.random(20_000) < truth
    stated = calibration.tempered(truth, 1 / temperature)
    found = calibration.fit_temperature(stated, right)
    assert found == pytest.approx(temperature, rel=0.05)
    assert calibration.measure(calibration.tempered(stated, found), right).ece < 0.02


def test_a_temperature_near_zero_makes_confidence_all_or_nothing():
    found = calibration.tempered(np.array([0.0, 0.4, 0.5, 1.0]), 1e-4)
    np.testing.assert_array_equal(found, [0.0, 0.0, 0.5, 1.0])


@pytest.mark.parametrize("confidence", [[1.2], [-0.1], [np.nan], []])
def test_what_is_no_confidence_is_refused(confidence):
    with pytest.raises(ConfigError, match="confidences in"):
        calibration.measure(np.array(confidence), np.ones(len(confidence), bool))
