import itertools
import math

import numpy as np
import pytest

from kanana_jax.config import ConfigError
from kanana_jax.evaluate import pass_at_k


@pytest.mark.parametrize(("num_right", "k"), list(itertools.product(range(6), range(1, 6))))
def test_it_is_the_share_of_sets_of_k_that_hold_a_right_answer(num_right, k):
    answers = [1] * num_right + [0] * (5 - num_right)
    sets = list(itertools.combinations(answers, k))
    expected = sum(map(max, sets)) / len(sets)
    assert pass_at_k.pass_at_k([num_right], 5, k).value == pytest.approx(expected)


def test_the_error_is_that_of_the_mean_over_problems():
    value, stderr = pass_at_k.pass_at_k([0, 4, 2, 4], 4, 1)
    assert value == pytest.approx(0.625)
    assert stderr == pytest.approx(np.std([0, 1, 0.5, 1], ddof=1) / 2)
    assert math.isnan(pass_at_k.pass_at_k([1], 1, 1).stderr)


@pytest.mark.parametrize(
    ("given", "words"),
    [(([1], 4, 8), "pass@8 needs 8 answers"), (([5], 4, 1), "how many of its 4")],
)
def test_what_cannot_be_measured_is_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        pass_at_k.pass_at_k(*given)
