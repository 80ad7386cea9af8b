"""The mean negative log-likelihood of the targets, and its slope.

Letters: B sequences, S positions.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax.batch import Batch
from kanana_jax.objectives import NextToken

B, S = 4, 6
# Rows with many targets and with one: means of rows would weigh them alike.
MASK_BS = np.float32(np.arange(S) < np.array([[6], [1], [4], [0]]))


def batch_with(mask_BS) -> Batch:
    ones = np.ones(mask_BS.shape, np.int32)
    return Batch(ones, ones, ones, ones, np.float32(mask_BS), np.float32(mask_BS))


def numbers():
    rng = np.random.default_rng(0)
    return -np.float32(rng.exponential(2.0, (B, S))), np.float32(rng.normal(3.0, 1.0, (B, S)))


def test_figures_are_means_over_the_targets_of_all_rows():
    logp_BS, logz_BS = numbers()
    objective, batch = NextToken(z_weight=0.1), batch_with(MASK_BS)
    totals = objective.totals(batch)
    seen = objective.seen(logp_BS, logz_BS, batch, totals, {})
    counted = MASK_BS == 1
    assert totals == counted.sum() == 11
    assert seen.sums.keys() == {"loss", "z_loss"} and not seen.maxima
    np.testing.assert_allclose(seen.sums["loss"], -np.float64(logp_BS)[counted].mean(), rtol=1e-6)
    np.testing.assert_allclose(
        seen.sums["z_loss"], (np.float64(logz_BS)[counted] ** 2).mean(), rtol=1e-6
    )


def test_weights_are_minus_the_gradient_of_the_loss():
    logp_BS, logz_BS = numbers()
    objective, batch = NextToken(), batch_with(MASK_BS)
    totals = objective.totals(batch)

    def loss(logp_BS):
        return objective.seen(logp_BS, logz_BS, batch, totals, {}).sums["loss"]

    w_BS = objective.coefficients(None, batch, totals, {})
    np.testing.assert_allclose(w_BS, -jax.grad(loss)(jnp.asarray(logp_BS)), rtol=1e-6)
    np.testing.assert_allclose(w_BS, MASK_BS / 11, rtol=1e-6)


@pytest.mark.parametrize("num_micro", [2, 4])
def test_micro_batches_add_up_to_the_whole(num_micro):
    logp_BS, logz_BS = numbers()
    objective, batch = NextToken(z_weight=0.1), batch_with(MASK_BS)
    totals = objective.totals(batch)
    whole = objective.seen(logp_BS, logz_BS, batch, totals, {}).sums
    added = dict.fromkeys(whole, 0.0)
    for first in range(num_micro):
        rows = slice(first, None, num_micro)
        part = batch.map(lambda x, rows=rows: x[rows])
        sums = objective.seen(logp_BS[rows], logz_BS[rows], part, totals, {}).sums
        added = {name: added[name] + sums[name] for name in added}
    for name, value in whole.items():
        np.testing.assert_allclose(added[name], value, rtol=1e-6, err_msg=name)


def test_a_batch_without_targets_has_no_loss_and_no_slope():
    logp_BS, logz_BS = numbers()
    objective, batch = NextToken(z_weight=0.1), batch_with(0 * MASK_BS)
    totals = objective.totals(batch)
    assert totals == 1
    assert set(map(float, objective.seen(logp_BS, logz_BS, batch, totals, {}).sums.values())) == {0}
    np.testing.assert_array_equal(objective.coefficients(None, batch, totals, {}), np.zeros((B, S)))


def test_it_is_hashed_by_its_settings_and_asks_for_no_second_pass():
    assert NextToken(0.1) == NextToken(0.1) != NextToken(0.2)
    assert len({NextToken(0.1), NextToken(0.1), NextToken(0.2)}) == 2
    assert not NextToken.needs_values and NextToken.frozen == ()
