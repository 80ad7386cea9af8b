"""The learning rate of more tokens, against published figures and against truths of our own."""

import numpy as np
import pytest

from kanana_jax.laws import errors, lines, token_axis

# arXiv:2608.20061, sec. 3.3: what the fit on eleven budgets predicts, and what was found there.
HELD_OUT_TOKENS_T = np.array([462.7, 472.6, 482.5, 492.4, 502.3]) * 1e9
PREDICTED_T = np.array([9.57, 9.53, 9.49, 9.45, 9.41]) * 1e-4
ACTUAL_T = np.array([9.26, 9.22, 8.97, 8.99, 9.01]) * 1e-4
RATES_R = np.array([6e-4, 1e-3, 2e-3, 3e-3, 6e-3])


def surface(rates_R, tokens_T, best_T, curvature=0.05):
    x_RT = np.log(rates_R)[:, None] - np.log(best_T)
    return token_axis.Proxies(rates_R, tokens_T, curvature * x_RT**2 + 2.0)


def test_published_predictions_and_errors_come_out_of_proxies_with_those_optima():
    """The eleven optima were not published; they lie on the line through what was predicted."""
    published = lines.fit(HELD_OUT_TOKENS_T, PREDICTED_T)
    tokens_T = np.concatenate([np.linspace(255e9, 350e9, 11), HELD_OUT_TOKENS_T])
    best_T = np.concatenate([published.at(tokens_T[:11]), ACTUAL_T])
    found = token_axis.optima(surface(RATES_R, tokens_T, best_T))
    np.testing.assert_allclose(found.rate_T, best_T, rtol=1e-6)
    held_out = token_axis.hold_out(found, share=5 / 16)
    np.testing.assert_allclose(held_out.predicted_T, PREDICTED_T, rtol=0.01)
    np.testing.assert_allclose(held_out.mean_error, 0.044, rtol=0.01)


def test_published_rates_at_two_budgets_have_the_exponent_that_joins_them():
    joined = lines.fit(np.array([502.3e9, 10e12]), np.array([9.01e-4, 3.85e-4]))
    np.testing.assert_allclose(joined.slope, -0.28, atol=0.01)


def noisy(seed, sigma=1e-3):
    """Five rates, three seeds each; every run has luck of its own, and so has every reading."""
    random = np.random.default_rng(seed)
    tokens_T = np.linspace(1e8, 4e8, 12)
    rates_R = np.repeat([1e-3, 2e-3, 4e-3, 8e-3, 16e-3], 3)
    clean = surface(rates_R, tokens_T, 4e-3 * (tokens_T / 1e8) ** -0.25)
    luck_RT = random.normal(0, sigma, (15, 1)) + random.normal(0, sigma / 3, (15, 12))
    return token_axis.Proxies(rates_R, tokens_T, clean.loss_RT + luck_RT)


def test_the_band_holds_the_true_rate_about_as_often_as_it_says():
    truth, num_held, widths = 4e-3 * 40**-0.25, 0, []
    for seed in range(50):
        found = token_axis.extrapolate(noisy(seed), 4e9, num_draws=100, seed=seed)
        num_held += found.rate_band.low < truth < found.rate_band.high
        widths.append(np.log(found.rate_band.high / found.rate_band.low))
    assert num_held >= 42
    assert 0.02 < np.median(widths) < 0.5


def test_without_noise_the_law_is_exact_and_its_band_closed():
    found = token_axis.extrapolate(noisy(0, sigma=0.0), 4e9, num_draws=20)
    np.testing.assert_allclose(found.law.slope, -0.25, rtol=1e-6)
    np.testing.assert_allclose(found.rate_band, [4e-3 * 40**-0.25] * 2, rtol=1e-6)


def test_three_runs_give_a_rate_and_no_band():
    tokens_T = np.array([1e8, 2e8, 4e8])
    proxies = surface(np.array([1e-3, 3e-3, 9e-3]), tokens_T, np.array([4e-3, 3.5e-3, 3e-3]))
    found = token_axis.extrapolate(proxies, 1e9)
    assert found.rate > 0 and np.isnan(found.rate_band).all()


def test_a_best_rate_outside_the_sweep_is_none():
    tokens_T = np.array([1e8, 2e8, 4e8, 8e8])
    proxies = surface(RATES_R, tokens_T, np.array([1e-2, 5e-3, 4e-3, 3e-3]))
    found = token_axis.optima(proxies)
    assert found.is_bracketed_T.tolist() == [False, True, True, True]
    np.testing.assert_allclose(token_axis.law(found).at(8e8), 3e-3, rtol=0.05)
    upside_down = token_axis.Proxies(RATES_R, tokens_T, -proxies.loss_RT)
    with pytest.raises(errors.LawError, match="inside the sweep, got 0 of 4"):
        token_axis.extrapolate(upside_down, 1e9)


@pytest.mark.parametrize(
    ("rates", "tokens", "losses", "message"),
    [
        ([1e-3, 2e-3], [1, 2], np.ones((2, 2)), "3 or more distinct positive rates"),
        ([1e-3, 1e-3, 2e-3], [1, 2], np.ones((3, 2)), "3 or more distinct positive rates"),
        ([1e-3, 2e-3, 3e-3], [2, 1], np.ones((3, 2)), "must be positive and increase"),
        ([1e-3, 2e-3, 3e-3], [1, 2], np.full((3, 2), np.nan), "finite loss at every budget"),
        ([1e-3, 2e-3, 3e-3], [1, 2], np.ones((3, 3)), r"= \(3, 2\), got \(3, 3\)"),
    ],
)
def test_what_cannot_be_fitted_is_refused(rates, tokens, losses, message):
    with pytest.raises(errors.LawError, match=message):
        token_axis.Proxies(np.array(rates), np.array(tokens, float), losses)


def test_curves_that_are_flatter_than_their_noise_are_refused():
    luck_R1 = np.random.default_rng(3).normal(0, 4e-3, (15, 1))
    tokens_T = np.linspace(1e8, 4e8, 12)
    flat = surface(np.repeat(RATES_R, 3), tokens_T, np.full(12, 2e-3), curvature=1e-3)
    proxies = token_axis.Proxies(flat.rate_R, tokens_T, flat.loss_RT + luck_R1)
    with pytest.raises(errors.LawError, match="no best rate at some budget"):
        token_axis.extrapolate(proxies, 4e9)
