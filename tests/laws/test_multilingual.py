"""What tokens are worth, transfer between curves, and what keeps a loss."""

import numpy as np
import pytest

from kanana_jax.laws import curves, errors, fitting, forms, iso_loss, saturation

ALPHA, BETA = 0.34, 0.29
CURSE = forms.Law(
    forms.CURSE,
    {"E": 1.5, "A": 400.0, "B": 400.0, "alpha": ALPHA, "beta": BETA, "phi": 0.11, "psi": -0.04},
)


def test_new_tokens_count_whole_and_repeated_ones_less_and_less():
    worth = saturation.saturated(np.array([1.0, 2.0, 4.0, 8.0, 1e9]), 2.0, 0.7)
    np.testing.assert_allclose(worth[:2], [1.0, 2.0])
    np.testing.assert_allclose(worth[2], 2.0 * (1 + (1 - np.exp(-0.7)) / 0.7))
    np.testing.assert_allclose(worth[4], 2.0 * (1 + 1 / 0.7))
    gains = np.diff(saturation.saturated(np.linspace(2.0, 8.0, 7), 2.0, 0.7))
    assert np.all(np.diff(gains) < 0)
    # The first repeated token is worth as much as a new one.
    np.testing.assert_allclose(saturation.saturated(2.002, 2.0, 0.7) - 2.0, 0.002, rtol=1e-3)


def curve(scale, tokens_N, state="constant, average", **options):
    return curves.Curve(tokens_N, 3.0 * (tokens_N * scale / 1e9) ** -0.1, state, **options)


TOKENS_N = np.geomspace(1e8, 1e10, 30)


@pytest.mark.parametrize(
    ("transfer", "score"), [(0.0, 0.0), (1.0, 1.0), (-0.5, -2.0), (0.5, 2 - 2 / 1.5)]
)
def test_the_score_is_1_for_target_text_and_0_for_text_of_no_use(transfer, score):
    """Half of the tokens are the target's; each of the others is worth `transfer` of one."""
    mono = curve(1.0, TOKENS_N)
    bilingual = curve(0.5 * (1 + transfer), TOKENS_N)
    found = curves.bilingual_transfer(mono, bilingual, np.array([2e8, 5e8, 2e9]))
    np.testing.assert_allclose(found.score_A, score, atol=1e-6)
    np.testing.assert_allclose(found.range, (score, score), atol=1e-6)


def test_content_is_matched_where_tokens_hold_different_amounts():
    mono = curve(1.0, TOKENS_N, content_per_token=4.0)
    bilingual = curve(0.5, TOKENS_N, content_per_token=3.0)
    anchor_A = np.array([1e9])
    by_tokens = curves.bilingual_transfer(mono, bilingual, anchor_A)
    by_content = curves.bilingual_transfer(mono, bilingual, anchor_A, matching="content")
    np.testing.assert_allclose(by_tokens.score_A, 0.0, atol=1e-6)
    np.testing.assert_allclose(by_content.score_A, 2 - 2 * 3 / 4, atol=1e-6)


def test_curves_of_two_states_of_the_rate_are_not_compared():
    one, other = curve(1.0, TOKENS_N), curve(1.0, TOKENS_N, "decayed")
    with pytest.raises(errors.LawError, match="got 'constant, average' and 'decayed'"):
        curves.bilingual_transfer(one, other, np.array([1e9]))
    with pytest.raises(errors.LawError, match="one state of the learning rate"):
        curves.crossover(one, other)


def test_an_anchor_that_the_mixture_does_not_reach_has_no_score():
    short = curve(0.1, TOKENS_N)
    found = curves.bilingual_transfer(curve(1.0, TOKENS_N), short, np.array([5e8, 5e9]))
    assert np.isfinite(found.score_A[0]) and np.isnan(found.score_A[1])
    with pytest.raises(errors.LawError, match="reaches the loss of no anchor"):
        curves.bilingual_transfer(curve(1.0, TOKENS_N), short, np.array([5e9]))


def test_noise_does_not_move_when_a_loss_was_first_reached():
    loss_N = np.array([3.0, 2.5, 2.6, 2.0])
    one = curves.Curve(np.array([1.0, 2.0, 4.0, 8.0]), loss_N, "decayed")
    np.testing.assert_allclose(one.tokens_at(np.array([3.0, 2.5, 2.0])), [1.0, 2.0, 8.0])
    assert np.isnan(one.tokens_at(np.array([3.1, 1.9]))).all()


def test_scratch_overtakes_where_the_curves_cross():
    scratch = curves.Curve(TOKENS_N, 4.0 * (TOKENS_N / 1e8) ** -0.2, "decayed")
    tuned = curves.Curve(TOKENS_N, 3.0 * (TOKENS_N / 1e8) ** -0.1, "decayed")
    expected = 1e8 * (4 / 3) ** (1 / 0.1)
    np.testing.assert_allclose(curves.crossover(tuned, scratch), expected, rtol=1e-6)
    assert curves.crossover(scratch, tuned) is None
    worse = curves.Curve(TOKENS_N, 9.0 * (TOKENS_N / 1e8) ** -0.1, "decayed")
    assert curves.crossover(tuned, worse) is None


def test_the_crossover_law_is_a_power_of_the_size():
    sizes = np.array([1e8, 5e8, 2e9])
    found = curves.crossover_law(sizes, 1e4 * sizes**0.65 / 6)
    np.testing.assert_allclose([found.slope, np.exp(found.intercept)], [1.65, 1e4], rtol=1e-9)


def test_published_factors_of_four_times_the_languages():
    """arXiv:2510.22037: exponents 0.243 and 0.727 give 1.4 times N and 2.74 times the tokens."""
    law = forms.Law(
        forms.CURSE, dict(CURSE.values) | {"alpha": 0.11 / 0.243, "beta": 0.04 / (1 - 0.727)}
    )
    found = iso_loss.factors(law, 4)
    np.testing.assert_allclose(found.num_params, 1.4, rtol=0.01)
    np.testing.assert_allclose(found.tokens, 2.74, rtol=0.01)
    np.testing.assert_allclose(found.compute, 4**0.97, rtol=0.01)


def test_factors_keep_the_loss():
    more = iso_loss.factors(CURSE, 5)
    before = CURSE.loss(forms.points([2e9], [1e11], num_languages=4))
    after = CURSE.loss(
        forms.points([2e9 * more.num_params], [1e11 * more.tokens / 5], num_languages=20)
    )
    np.testing.assert_allclose(after, before, rtol=1e-12)


def test_the_cheapest_pair_reaches_the_loss_and_none_beside_it_is_cheaper():
    found = iso_loss.cheapest(CURSE, 2.2, 8)
    at = forms.points([found.num_params], [found.target_tokens], num_languages=8)
    np.testing.assert_allclose(CURSE.loss(at), 2.2, rtol=1e-12)
    for factor in (0.8, 1.25):
        tokens = iso_loss.target_tokens(CURSE, 2.2, found.num_params * factor, 8)
        assert found.compute < 6 * found.num_params * factor * 8 * tokens
    with pytest.raises(errors.LawError, match="take a larger model"):
        iso_loss.target_tokens(CURSE, 2.2, 1e6, 8)
    with pytest.raises(errors.LawError, match=r"above E = 1\.5"):
        iso_loss.cheapest(CURSE, 1.4, 8)
    blind = forms.Law(forms.CHINCHILLA, CURSE.values)
    with pytest.raises(errors.LawError, match="form curse, got chinchilla"):
        iso_loss.factors(blind, 2)


@pytest.mark.long
def test_the_curse_is_recovered():
    grid = np.stack(np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4), [1, 4, 16]))
    size_P, token_P, language_P = grid.reshape(3, -1)
    points = forms.points(size_P, token_P, num_languages=language_P)
    found = fitting.fit(forms.CURSE, points, CURSE.loss(points))
    for name, value in CURSE.values.items():
        np.testing.assert_allclose(found.law[name], value, rtol=1e-3, err_msg=name)
