"""Policy gradients against `policy_by_hand`: losses, and weights by central differences.

Letters: B sequences, S positions.
"""

import dataclasses

import hypothesis
import jax
import numpy as np
import policy_by_hand as by_hand
import pytest
from hypothesis import strategies as st

from kanana_jax.objectives import corrections, presets, squared, surrogates
from kanana_jax.objectives.critic import ValueLoss
from kanana_jax.objectives.policy_gradient import PolicyGradient

pytestmark = pytest.mark.slow

# Widths are such that among 41 tokens and 9 rollouts some are clipped and some are not.
CASES = {
    "reinforce_loo": presets.reinforce_loo(),
    "reinforce_truncated_k2": presets.reinforce_loo(
        correction=corrections.Truncated(1.1), kl="loss_k2", kl_weight=0.3, ptx_weight=0.2
    ),
    "grpo": presets.grpo(),
    "grpo_k3": presets.grpo(kl="loss_k3", kl_weight=0.04),
    "dr_grpo": presets.dr_grpo(20),
    "dapo_rk3": presets.dapo(kl="loss_rk3", kl_weight=0.5, ptx_weight=0.1),
    "dapo_masked": presets.dapo(correction=corrections.Masked(0.8, 1.3)),
    "dapo_sequence_mask": presets.dapo(correction=corrections.SequenceMask(0.9, 1.1)),
    "ppo_dual": PolicyGradient(surrogate=surrogates.Clipped(0.1, 0.1, 1.15)),
    "gspo": presets.gspo(0.03, 0.04),
    "gspo_truncated": presets.gspo(0.03, 0.04, correction=corrections.Truncated(1.2)),
    "cispo": presets.cispo(1.2),
    "cispo_mean": dataclasses.replace(
        presets.cispo(1.2, correction=corrections.SequenceMask(0.9, 1.1, "arithmetic")),
        surrogate=surrogates.Cispo(0.8, 1.2),
    ),
    "k15": presets.k15(0.4),
    "k15_masked": presets.k15(0.4, correction=corrections.Masked(0.8, 1.3), ptx_weight=0.5),
    "k15_sequence": PolicyGradient(surrogate=squared.Squared(0.4), aggregation="sequence"),
    "k25": presets.k25(0.05, 0.05),
    "squared_token": PolicyGradient(surrogate=squared.SquaredToken(0.05, 0.05)),
}
WHOLE = ["grpo", "grpo_k3", "dr_grpo", "dapo_rk3", "ppo_dual", "k15", "k15_sequence", "k25"]


def figures(objective, logp_BS, batch):
    totals = objective.totals(batch)
    return objective.seen(logp_BS, logp_BS, batch, totals, {})


def weights(objective, logp_BS, batch, totals=None):
    totals = objective.totals(batch) if totals is None else totals
    given = logp_BS if objective.needs_values else None
    return np.asarray(objective.coefficients(given, batch, totals, {}))


@pytest.mark.parametrize("name", CASES)
def test_the_loss_and_its_weights_are_those_of_the_formula(name):
    objective, (batch, logp_BS) = CASES[name], by_hand.batch_of()
    at_BS = np.float64(logp_BS)
    wanted = by_hand.loss(objective, at_BS, at_BS, batch)
    np.testing.assert_allclose(
        figures(objective, logp_BS, batch).sums["loss"], wanted, rtol=2e-6, atol=1e-7
    )
    slope_BS = by_hand.slopes(lambda live: by_hand.loss(objective, live, at_BS, batch), at_BS)
    w_BS = weights(objective, logp_BS, batch)
    assert w_BS.dtype == np.float32
    # A difference quotient of step 1e-5 is off by 1e-10, float32 by 1e-6 of the largest weight.
    np.testing.assert_allclose(w_BS, -slope_BS, rtol=5e-6, atol=2e-8)


@pytest.mark.parametrize("name", ["ppo_dual", "gspo", "cispo", "cispo_mean", "k25"])
def test_some_tokens_are_clipped_and_some_are_not(name):
    """So that the cases above tell the two apart."""
    clipped = figures(CASES[name], *by_hand.batch_of()[::-1]).sums["clipped"]
    assert 0.02 < clipped < 0.9


def test_the_squared_form_is_the_gradient_of_the_whole_square():
    """Without a correction, of the mean over tokens of nothing but (A - tau Lambda)^2 / (2 tau)."""
    objective, (batch, logp_BS) = CASES["k15"], by_hand.batch_of()
    tau, at_BS = objective.surrogate.tau, np.float64(logp_BS)

    def loss(live_BS):
        found = by_hand.rollouts_of(live_BS, live_BS, batch, "old")
        of_each = [(x.advantage[0] - tau * (x.live - x.old).sum()) ** 2 / (2 * tau) for x in found]
        return sum(of_each) / sum(x.live.size for x in found)

    w_BS = weights(objective, logp_BS, batch)
    np.testing.assert_allclose(w_BS, -by_hand.slopes(loss, at_BS), rtol=5e-6, atol=1e-8)


@pytest.mark.parametrize("name", WHOLE)
def test_weights_are_minus_the_gradient_of_what_is_reported(name):
    """Of losses of which no part is held."""
    objective, (batch, logp_BS) = CASES[name], by_hand.batch_of(fill=0.0)

    def loss(logp_BS):
        return figures(objective, logp_BS, batch).sums["loss"]

    wanted_BS = -jax.grad(loss)(jax.numpy.asarray(logp_BS))
    np.testing.assert_allclose(weights(objective, logp_BS, batch), wanted_BS, rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_micro_batches_add_up_to_the_whole(name):
    objective, (batch, logp_BS) = CASES[name], by_hand.batch_of()
    totals, whole = objective.totals(batch), figures(objective, logp_BS, batch)
    w_BS = weights(objective, logp_BS, batch)
    parts = []
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        part = batch.map(lambda x, rows=rows: x[rows])
        parts.append(objective.seen(logp_BS[rows], logp_BS[rows], part, totals, {}))
        of_part = weights(objective, logp_BS[rows], part, totals)
        np.testing.assert_allclose(of_part, w_BS[rows], rtol=1e-6)
    for name, value in whole.sums.items():
        added = sum(part.sums[name] for part in parts)
        np.testing.assert_allclose(added, value, rtol=1e-5, atol=1e-6, err_msg=name)
    for name, value in whole.maxima.items():
        assert max(part.maxima[name] for part in parts) == value


def test_figures_are_means_over_drawn_tokens():
    objective = presets.dapo(
        correction=corrections.Masked(0.8, 1.3), kl="loss_k2", kl_weight=0.1, ptx_weight=0.1
    )
    batch, logp_BS = by_hand.batch_of()
    at_BS = np.float64(logp_BS)
    found = by_hand.rollouts_of(at_BS, at_BS, batch, "old")
    x = by_hand.Rollout(*map(np.concatenate, zip(*found, strict=True)))
    ratio, rho = np.exp(x.live - x.old), np.exp(x.old - x.sampler)
    weight = np.where((rho >= 0.8) & (rho <= 1.3), rho, 0.0)
    is_clipped = ((ratio > 1.28) & (x.advantage > 0)) | ((ratio < 0.8) & (x.advantage < 0))
    wanted = {
        "ratio": ratio,
        "old_k1": x.old - x.live,
        "old_k3": ratio - 1 - np.log(ratio),
        "drawn_nll": -x.live,
        "mismatch_k3": rho - 1 - np.log(rho),
        "clipped": is_clipped,
        "correction": weight,
        "masked": weight == 0,
        "reference_k3": by_hand.k3(x),
    }
    seen = figures(objective, logp_BS, batch)
    assert seen.sums.keys() == {*wanted, "loss", "ptx_nll"}
    assert 0.0 < is_clipped.mean() < 0.5 and 0.0 < (weight == 0).mean() < 0.5
    for name, of_tokens in wanted.items():
        np.testing.assert_allclose(
            seen.sums[name], np.mean(of_tokens), rtol=5e-6, atol=1e-6, err_msg=name
        )
    stored = (batch.loss_mask > 0) & (batch.extra["stored"] > 0)
    np.testing.assert_allclose(seen.sums["ptx_nll"], -at_BS[stored].mean(), rtol=1e-6)
    assert seen.maxima.keys() == {"max_mismatch"}
    np.testing.assert_allclose(
        seen.maxima["max_mismatch"], np.abs(x.old - x.sampler).max(), rtol=1e-6
    )


def test_a_ratio_to_the_sampler_needs_no_column_of_the_trainer():
    objective, (batch, logp_BS) = CASES["k25"], by_hand.batch_of()
    assert objective.columns == ("advantage", "sampler")
    del batch.extra["old"]
    seen = figures(objective, logp_BS, batch)
    assert {"sampler_k1", "sampler_k3"} <= seen.sums.keys()
    assert "mismatch_k3" not in seen.sums and not seen.maxima


def test_columns_are_those_that_the_terms_read():
    assert presets.grpo().columns == ("advantage", "sampler", "old")
    options = {"kl": "loss_k2", "kl_weight": 0.1, "ptx_weight": 0.1, "has_temperature": True}
    assert presets.ppo(**options).columns == (
        *("advantage", "sampler", "old", "reference", "stored", "temperature"),
        *("returns", "old_values"),
    )
    assert not presets.reinforce_loo().needs_values
    assert presets.reinforce_loo(kl="loss_k2", kl_weight=0.1).needs_values
    assert presets.k15(0.1, replays_routes=True).replays_routes


@pytest.mark.parametrize("name", CASES)
def test_what_is_neither_drawn_nor_stored_has_no_weight(name):
    batch, logp_BS = by_hand.batch_of()
    w_BS = weights(CASES[name], np.where(batch.loss_mask > 0, logp_BS, -1e30), batch)
    assert (w_BS[batch.loss_mask == 0] == 0).all()
    assert np.isfinite(w_BS).all() and np.any(w_BS != 0)


@pytest.mark.parametrize("name", CASES)
def test_stored_rows_leave_the_weights_of_rollouts_as_they_are(name):
    objective = dataclasses.replace(CASES[name], ptx_weight=0.7)
    batch, logp_BS = by_hand.batch_of()
    w_BS = weights(objective, logp_BS, batch)
    rows = list(by_hand.DRAWN_ROWS)
    alone = batch.map(lambda x: x[rows])
    np.testing.assert_array_equal(w_BS[rows], weights(objective, logp_BS[rows], alone))
    is_target = batch.loss_mask[list(by_hand.STORED)] > 0
    np.testing.assert_allclose(
        w_BS[list(by_hand.STORED)], np.where(is_target, 0.7 / is_target.sum(), 0.0), rtol=1e-6
    )


def tokens_of(advantage_S, log_ratio_S):
    """A row of one rollout."""
    batch, logp_BS = by_hand.batch_of(rows=(("x" * by_hand.S,),), stored=(), fill=0.0)
    old_BS = logp_BS - np.float32(log_ratio_S)
    extra = batch.extra | {"advantage": np.float32([advantage_S]), "old": old_BS}
    return batch._replace(extra=extra | {"sampler": old_BS}), logp_BS


def per_token(smallest, largest):
    one = st.floats(smallest, largest, width=32)
    return st.lists(one, min_size=by_hand.S, max_size=by_hand.S)


@hypothesis.settings(deadline=None, max_examples=10)
@hypothesis.given(advantage_S=per_token(-4.0, 4.0), log_ratio_S=per_token(-60.0, 60.0))
@pytest.mark.long
def test_a_ratio_never_pulls_beyond_its_bounds(advantage_S, log_ratio_S):
    """By at most 1 + high where it is rewarded, by dual where it is punished; cispo both ways."""
    batch, logp_BS = tokens_of(advantage_S, log_ratio_S)
    size_S, sign_S = np.abs(advantage_S), np.sign(advantage_S)
    of_ppo, of_cispo = (
        weights(one, logp_BS, batch)[0] * sign_S * by_hand.S
        for one in (presets.ppo(0.2, 3.0), presets.cispo(2.0))
    )
    assert (of_ppo >= 0).all() and (of_cispo >= 0).all()
    assert (of_ppo <= np.where(sign_S > 0, 1.2, 3.0) * size_S * 1.0001).all()
    assert (of_cispo <= 2.0 * size_S * 1.0001).all()


@pytest.mark.parametrize("name", ["grpo_k3", "dapo_rk3", "dapo_masked", "gspo", "cispo", "k25"])
def test_ratios_beyond_float32_keep_figures_and_weights_finite(name):
    log_ratio_S = np.linspace(-300.0, 300.0, by_hand.S)
    batch, logp_BS = tokens_of(np.tile([1.0, -1.0], by_hand.S // 2), log_ratio_S)
    batch.extra["sampler"] = batch.extra["old"] - np.float32(log_ratio_S[::-1])
    batch.extra["reference"] = logp_BS + np.float32(log_ratio_S)
    assert np.isfinite(weights(CASES[name], logp_BS, batch)).all()
    sums = figures(CASES[name], logp_BS, batch).sums
    assert {name: value for name, value in sums.items() if not np.isfinite(value)} == {}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: presets.grpo(kl="loss_k1", kl_weight=0.1), "mean gradient of .* is 0"),
        (lambda: presets.grpo(kl="reward_k1", kl_weight=0.1), r"gae\.with_divergence"),
        (lambda: presets.grpo(kl="k4", kl_weight=0.1), "kl must be one of"),
        (lambda: presets.grpo(kl="loss_k2"), "must be given together"),
        (lambda: presets.grpo(kl_weight=0.1), "must be given together"),
        (lambda: presets.grpo(ptx_weight=-1.0), "ptx_weight must be a number from 0"),
        (lambda: presets.k25(correction=corrections.Truncated()), "has the correction in it"),
        (lambda: PolicyGradient(surrogate=surrogates.Reinforce(), ratio_to="new"), "ratio_to must"),
        (lambda: presets.dr_grpo(0), "from 1, got 0"),
        (lambda: dataclasses.replace(presets.dr_grpo(9), aggregation="mean"), "aggregation must"),
        (lambda: dataclasses.replace(presets.dr_grpo(9), aggregation="token"), "no other takes"),
        (lambda: surrogates.Clipped(0.2, 0.2, 1.1), "larger than 1"),
        (lambda: surrogates.Clipped(1.5, 0.2), r"low must lie in \(0, 1\]"),
        (lambda: surrogates.SequenceClipped(0.0, 0.1), r"low must lie in \(0, 1\]"),
        (lambda: surrogates.Cispo(0.0, 0.5), "0 <= low < 1 < high"),
        (lambda: presets.k15(0.0), "tau must be a positive number"),
        (lambda: presets.k25(trust=1.5), r"trust lie in \(0, 1\]"),
        (lambda: corrections.Truncated(0.5), "cap must be a ratio from 1"),
        (lambda: corrections.Masked(1.1, 2.0), "low <= 1 <= high"),
        (lambda: corrections.SequenceMask(mean="median"), "geometric or arithmetic"),
        (lambda: ValueLoss(weight=0.0), "weight and clip must be positive"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
