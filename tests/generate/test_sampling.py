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
