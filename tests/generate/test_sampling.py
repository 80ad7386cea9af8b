"""What may be drawn, how often, and that a draw depends on its own request only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax.config import ConfigError
from kanana_jax.generate import sampling
from kanana_jax.generate.sampling import Sampling

# Probabilities 0.5, 0.25, 0.15, 0.1 in an order that is not sorted.
LOGITS = np.log(np.array([0.15, 0.5, 0.1, 0.25], np.float32))


def _draws(how, num_draws=400):
    rows = sampling.rows([how] * num_draws, list(range(num_draws)))
    logits = jnp.tile(LOGITS, (num_draws, 1))
    drawn, logp = sampling.sample(logits, rows, is_filtered=sampling.is_filtered([how]))
    return np.asarray(drawn), np.asarray(logp)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Sampling(), {0, 1, 2, 3}),
        (Sampling(temperature=0.0), {1}),
        (Sampling(top_k=2), {1, 3}),
        (Sampling(top_p=0.7), {1, 3}),
        (Sampling(top_p=0.4), {1}),
        (Sampling(min_p=0.25), {0, 1, 3}),
        (Sampling(top_k=3, top_p=0.8), {1, 3}),  # 0.5 / 0.9 and 0.25 / 0.9 pass 0.8 together
        (Sampling(temperature=10.0, top_k=1), {1}),
        # Squared and renormalised: 0.72, 0.18, 0.07, 0.03, so the filters see these.
        (Sampling(temperature=0.5, top_p=0.7), {1}),
        (Sampling(temperature=0.5, min_p=0.15), {1, 3}),
    ],
)
def test_only_what_the_settings_keep_is_drawn(how, expected):
    assert set(_draws(how)[0].tolist()) == expected


def test_frequencies_are_the_probabilities_at_the_temperature():
    drawn, _ = _draws(Sampling(temperature=0.5), num_draws=4000)
    want = np.exp(LOGITS) ** 2
    want /= want.sum()
    got = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(got, want, atol=4 * np.sqrt(0.25 / 4000))


def test_a_draw_depends_on_its_own_seed_and_place_only():
    one, other = Sampling(seed=3), Sampling(seed=4, temperature=0.5)
    logits = jnp.tile(LOGITS, (2, 1))
    first = [
        int(sampling.sample(logits[:1], sampling.rows([one], [n]), is_filtered=False)[0][0])
        for n in range(40)
    ]
    mixed = [
        int(sampling.sample(logits, sampling.rows([other, one], [7, n]), is_filtered=True)[0][1])
        for n in range(40)
    ]
    assert first == mixed
    assert len(set(first)) > 1
    assert first != _draws(Sampling(seed=4), 40)[0].tolist()


def _probabilities(how):
    """The probabilities of `LOGITS` that the settings leave, in float64, by sorting."""
    p = np.exp(np.float64(LOGITS)) ** (1 / how.temperature)
    p /= p.sum()
    order = np.argsort(-p)
    ranks = np.empty(len(p), int)
    ranks[order] = np.arange(len(p))
    kept = ranks < (how.top_k or len(p))
    before = np.cumsum(p[order] * kept[order]) / (p * kept).sum() - p[order] / (p * kept).sum()
    kept &= before[ranks] < how.top_p
    kept &= p >= how.min_p * p.max()
    return np.where(kept, p, 0.0) / p[kept].sum()


@pytest.mark.parametrize(
    "how",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(temperature=3.0),
        Sampling(top_k=3),
        Sampling(top_p=0.8),
        Sampling(min_p=0.25),
        Sampling(temperature=2.0, top_k=3, top_p=0.7, min_p=0.1),
    ],
)
def test_logp_is_of_the_distribution_that_was_drawn_from(how):
    drawn, logp = _draws(how)
    want = _probabilities(how)
    assert set(drawn.tolist()) == set(np.flatnonzero(want).tolist())
    np.testing.assert_allclose(logp, np.log(want[drawn]), rtol=0, atol=1e-6)


def test_a_greedy_draw_is_certain():
    _, logp = _draws(Sampling(temperature=0.0), 4)
    assert logp.tolist() == [0.0] * 4


def test_logp_among_large_logits_and_many_tokens_is_that_of_float64():
    logits = 1e3 + 4 * np.random.default_rng(0).standard_normal((8, 5000)).astype(np.float32)
    drawn, logp = sampling.sample(
        jnp.asarray(logits), sampling.rows([Sampling()] * 8, range(8)), is_filtered=False
    )
    exact = np.float64(logits)
    want = exact[np.arange(8), drawn] - np.log(np.exp(exact - 1e3).sum(axis=1)) - 1e3
    np.testing.assert_allclose(logp, want, rtol=0, atol=5e-6)


def test_a_row_without_a_filter_keeps_all_tokens_beside_one_that_has_one():
    logits = jnp.array([[0.0, -20.0]])  # the probability of the first rounds to 1
    rows = sampling.rows([Sampling()], [0])
    assert bool(sampling._in_top_k_and_p(logits, rows).all())


def test_one_row_of_logits_serves_several_draws():
    logits = jnp.stack([jnp.asarray(LOGITS), jnp.asarray(LOGITS[::-1])])
    how = sampling.rows([Sampling(seed=seed) for seed in range(4)], [0] * 4)
    places = np.array([1, 0, 1, 1])
    got = sampling.sample(logits, how, places, is_filtered=False)
    want = sampling.sample(logits[places], how, is_filtered=False)
    np.testing.assert_array_equal(got, want)
    swapped = sampling.sample(logits, how, 1 - places, is_filtered=False)
    assert (np.asarray(got) != np.asarray(swapped)).any()


def test_a_threshold_found_bit_by_bit_keeps_what_sorting_would():
    logits = np.random.default_rng(0).standard_normal((64, 300)).astype(np.float32) * 3
    how = Sampling(top_k=40, top_p=0.8)
    want = []
    for row in logits:
        p = np.sort(np.exp(np.float64(row)))[::-1][:40]
        p /= p.sum()
        num_kept = int((np.cumsum(p) - p < 0.8).sum())
        want.append(np.sort(np.argsort(-row)[:num_kept]).tolist())
    rows = sampling.rows([how] * 64, [0] * 64)
    kept = np.asarray(sampling._in_top_k_and_p(jnp.asarray(logits), rows))
    assert [np.flatnonzero(row).tolist() for row in kept] == want


def test_top_p_ends_with_the_token_that_reaches_it():
    logits = jnp.asarray(LOGITS)[None]
    largest = float(jax.nn.softmax(logits).max())
    rows = sampling.rows([Sampling(top_p=largest)], [0])
    np.testing.assert_array_equal(
        sampling._in_top_k_and_p(logits, rows), [[False, True, False, False]]
    )


@pytest.mark.parametrize(
    "values", [{"temperature": -1}, {"top_k": -2}, {"top_p": 0}, {"min_p": 2}, {"seed": -1}]
)
def test_impossible_settings_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        Sampling(**values)
