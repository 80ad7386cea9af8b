"""The clipped loss of values against its formula in float64, and central differences."""

import math

import numpy as np
import policy_by_hand as by_hand
import pytest

from kanana_jax.objectives import rollouts
from kanana_jax.objectives.critic import ValueLoss, explained_variance

CRITIC = ValueLoss(weight=0.3, clip=0.4)


def batch_with_values():
    batch, _ = by_hand.batch_of(fill=0.0)
    rng = np.random.default_rng(3)
    shape = batch.tokens.shape
    value_BS, old_BS, return_BS = np.float32(rng.normal(size=(3, *shape)))
    old_BS = np.float32(value_BS + 0.5 * old_BS)
    is_drawn = np.asarray(rollouts.is_drawn(batch))
    columns = {"returns": return_BS, "old_values": old_BS}
    extra = {name: np.where(is_drawn, x, np.float32(np.nan)) for name, x in columns.items()}
    return batch._replace(extra=batch.extra | extra), value_BS, is_drawn


def value_loss(value_BS, batch, is_drawn):
    v, r, old = (np.float64(x)[is_drawn] for x in (value_BS, *map(batch.extra.get, NAMES)))
    bounded = np.minimum(np.maximum(v, old - CRITIC.clip), old + CRITIC.clip)
    return 0.5 * np.maximum((v - r) ** 2, (bounded - r) ** 2).mean()


NAMES = ("returns", "old_values")


def test_figures_and_weights_are_those_of_the_formula():
    batch, value_BS, is_drawn = batch_with_values()
    totals = rollouts.totals(batch)
    sums = CRITIC.sums(value_BS, batch, totals)
    wanted = value_loss(value_BS, batch, is_drawn)
    np.testing.assert_allclose(sums["value_loss"], wanted, rtol=1e-6)
    np.testing.assert_allclose(sums["loss"], 0.3 * wanted, rtol=1e-6)
    slope_BS = by_hand.slopes(lambda v: value_loss(v, batch, is_drawn), np.float64(value_BS))
    w_BS = np.asarray(CRITIC.coefficients(value_BS, batch, totals))
    np.testing.assert_allclose(w_BS, -0.3 * slope_BS, rtol=1e-5, atol=1e-9)
    is_still = (w_BS == 0)[is_drawn]
    np.testing.assert_allclose(sums["value_clipped"], is_still.mean(), rtol=1e-6)
    assert 0.05 < is_still.mean() < 0.6


def test_explained_variance_is_that_of_the_drawn_tokens():
    batch, value_BS, is_drawn = batch_with_values()
    returns = np.float64(batch.extra["returns"])[is_drawn]
    wanted = 1 - (returns - value_BS[is_drawn]).var() / returns.var()
    found = explained_variance(CRITIC.sums(value_BS, batch, rollouts.totals(batch)))
    assert found == pytest.approx(wanted, rel=1e-5)


def test_explained_variance_of_equal_returns_is_nan():
    names = ("return", "return_squared", "value_error", "value_error_squared")
    assert math.isnan(explained_variance(dict(zip(names, (0.5, 0.25, 0.1, 0.2), strict=True))))
