"""Sampling settings at the ends of their ranges, as any client may send them."""

import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax.config import ConfigError
from kanana_jax.generate import sampling
from kanana_jax.generate.sampling import Sampling

# Two are near the top: divided by a small temperature, both pass the largest float32.
LOGITS = np.array([[5.0, 39.0, -3.0, 40.0]], np.float32)
NUM_DRAWS = 64


def _drawn(how, *, is_filtered=None, logits=LOGITS):
    rows = sampling.rows([how] * NUM_DRAWS, range(NUM_DRAWS))
    if is_filtered is None:
        is_filtered = sampling.is_filtered([how])
    repeated = jnp.tile(logits, (NUM_DRAWS, 1))
    return np.asarray(sampling.sample(repeated, rows, is_filtered=is_filtered)[0]).tolist()


@pytest.mark.parametrize("is_filtered", [False, True])
@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-40, 1.2e-38, 1e-37, 1e-30, 1e-5])
def test_a_temperature_near_zero_is_greedy(temperature, is_filtered):
    assert set(_drawn(Sampling(temperature=temperature), is_filtered=is_filtered)) == {3}


def test_no_device_sees_a_subnormal():
    rows = sampling.rows([Sampling(temperature=1e-40, top_p=1e-40)], [0])
    assert rows.temperature_B[0] == 0
    assert rows.top_p_B[0] >= np.finfo(np.float32).tiny


def test_the_highest_temperature_draws_all_alike():
    assert set(_drawn(Sampling(temperature=1.7e308))) == {0, 1, 2, 3}


@pytest.mark.parametrize("top_k", [-1, 0, 4, 5, 2**31 - 1, 2**31, 2**32, 2**63, 10**40])
def test_a_top_k_of_the_vocabulary_and_more_is_no_filter(top_k):
    plain = _drawn(Sampling(temperature=30.0))
    assert _drawn(Sampling(temperature=30.0, top_k=top_k), is_filtered=True) == plain
    assert len(set(plain)) > 2


@pytest.mark.parametrize("top_p", [5e-324, 1e-50, 1e-38, 1e-9])
def test_the_smallest_top_p_keeps_the_best_token_only(top_p):
    assert set(_drawn(Sampling(temperature=30.0, top_p=top_p))) == {3}


@pytest.mark.parametrize(("min_p", "kept"), [(1.0, {3}), (1 - 1e-12, {3}), (5e-324, {0, 1, 2, 3})])
def test_min_p_at_its_ends(min_p, kept):
    assert set(_drawn(Sampling(temperature=100.0, min_p=min_p))) == kept


@pytest.mark.parametrize(
    "values",
    [{name: value} for name in ("temperature", "top_p", "min_p") for value in (np.nan, np.inf, -1)]
    + [{"top_k": np.nan}, {"top_k": 1.5}, {"seed": 0.5}, {"seed": 2**31}],
)
def test_what_is_no_setting_is_refused_by_name(values):
    ((name, value),) = values.items()
    with pytest.raises(ConfigError, match=f"^{name} must be .*, got {value}"):
        Sampling(**values)


def test_places_have_seeds_of_their_own():
    how = Sampling(temperature=0.7, seed=2**31 - 2)
    assert how.at_place(0) == how
    assert [how.at_place(place).seed for place in (1, 2, 3)] == [2**31 - 1, 0, 1]
    assert how.at_place(2).temperature == 0.7
