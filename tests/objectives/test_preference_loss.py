"""Losses of pairs against their formulas, written once more in numpy float64, pair by pair.

Letters: B sequences, S positions.
"""

import collections
import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax.batch import Batch
from kanana_jax.objectives.dpo import dpo, dpo_norm
from kanana_jax.objectives.ipo import ipo

pytestmark = pytest.mark.slow

S = 12
# Segments of each row as (prompt positions, answer positions); the rest of a row is padding.
ROWS = (
    ((1, 3), (1, 2), (2, 1), (1, 1)),  # two pairs, full
    (),  # no pair
    ((2, 2), (2, 5)),  # one pair and padding
    ((0, 1), (0, 1)) * 6,  # as many segments as positions
    ((3, 2), (3, 3)),
    ((1, 1), (1, 1), (1, 2), (1, 1), (0, 1), (0, 1)),  # three pairs
    (),
    ((4, 1), (4, 2)),
)
NUM_PAIRS = sum(len(row) for row in ROWS) // 2


def batch_of(rows=ROWS) -> Batch:
    shape = (len(rows), S)
    segments, mask = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for b, row in enumerate(rows):
        place = 0
        for number, (prompt, answer) in enumerate(row, start=1):
            segments[b, place : place + prompt + answer] = number
            mask[b, place + prompt : place + prompt + answer] = 1
            place += prompt + answer
        assert place <= S
    tokens = np.zeros(shape, np.int32)
    return Batch(tokens, tokens, tokens, segments, mask, mask)


def logps(scale: float = 1.0):
    """Of the weights and of the reference; also of prompts and padding, which must not count."""
    rng = np.random.default_rng(0)
    shape = (len(ROWS), S)
    logp_BS, ref_BS = -scale * rng.exponential(2.0, (2, *shape))
    logp_BS[3, :2] = ref_BS[3, :2]  # a tie
    return np.float32(logp_BS), np.float32(ref_BS)


def margin_loss(kind, m, beta, smoothing):
    """The loss of a margin, and its slope."""
    if kind == "ipo":
        distance = m / beta - 1 / (2 * beta)
        return distance**2, 2 * distance / beta
    right, wrong = 1 / (1 + np.exp(-m)), 1 / (1 + np.exp(m))
    loss = -(1 - smoothing) * np.log(right) - smoothing * np.log(wrong)
    return loss, -(1 - smoothing) * wrong + smoothing * right


def by_hand(logp_BS, ref_BS, batch, case):
    """Mean figures over the pairs and d loss / d logp, in float64."""
    kind, beta, smoothing, sft_weight, _ = case
    logp_BS, ref_BS = np.float64(logp_BS), np.float64(ref_BS)
    totals, slope_BS = collections.Counter(), np.zeros(logp_BS.shape)
    for b, segments in enumerate(batch.segment_ids):
        for k in range(1, segments.max() // 2 + 1):
            chosen, rejected = (
                (segments == number) & (batch.loss_mask[b] == 1) for number in (2 * k - 1, 2 * k)
            )
            shares = [1 if kind == "dpo" else 1 / side.sum() for side in (chosen, rejected)]
            of_chosen, of_rejected = (
                beta * share * (logp_BS[b, side].sum() - ref_BS[b, side].sum())
                for side, share in zip((chosen, rejected), shares, strict=True)
            )
            m, nll = of_chosen - of_rejected, -logp_BS[b, chosen].mean()
            loss, slope = margin_loss(kind, m, beta, smoothing)
            found = {
                "loss": loss + sft_weight * nll,
                "accuracy": 1.0 if m > 0 else 0.5 if m == 0 else 0.0,
                "margin": m,
                "chosen_reward": of_chosen,
                "rejected_reward": of_rejected,
                "chosen_nll": nll,
                "chosen_length": chosen.sum(),
                "rejected_length": rejected.sum(),
            }
            for name, value in found.items():
                totals[name] += value
            slope_BS[b, chosen] = beta * slope * shares[0] - sft_weight / chosen.sum()
            slope_BS[b, rejected] = -beta * slope * shares[1]
    return {name: total / NUM_PAIRS for name, total in totals.items()}, slope_BS / NUM_PAIRS


def objective_of(case, reference="computed"):
    kind, beta, smoothing, sft_weight, _ = case
    options = {"sft_weight": sft_weight, "reference": reference}
    if kind == "ipo":
        return ipo(beta, **options)
    return {"dpo": dpo, "dpo_norm": dpo_norm}[kind](beta, smoothing, **options)


# Loss, beta, label smoothing, weight of the chosen answer's nll, scale of the log-probabilities.
CASES = pytest.mark.parametrize(
    "case",
    [
        ("dpo", 0.1, 0.0, 0.0, 1.0),
        ("dpo", 0.5, 0.1, 0.2, 1.0),
        ("dpo", 2.0, 0.0, 0.0, 5.0),
        ("dpo_norm", 5.0, 0.0, 0.0, 1.0),
        ("dpo_norm", 2.0, 0.2, 0.5, 1.0),
        ("ipo", 0.1, 0.0, 0.0, 1.0),
        ("ipo", 0.5, 0.0, 1.0, 1.0),
    ],
    ids=lambda case: "-".join(map(str, case)),
)


@CASES
@pytest.mark.parametrize("reference", ["computed", "cached"])
def test_figures_are_those_of_the_formula(case, reference):
    objective, batch = objective_of(case, reference), batch_of()
    logp_BS, ref_BS = logps(case[-1])
    totals, frozen = objective.totals(batch), {"reference": ref_BS}
    if reference == "cached":
        batch, frozen = batch._replace(extra=frozen), {}
    assert totals == NUM_PAIRS
    assert (objective.frozen, objective.columns) == (tuple(frozen), tuple(batch.extra))
    seen = objective.seen(logp_BS, logp_BS, batch, totals, frozen)
    wanted, _ = by_hand(logp_BS, ref_BS, batch, case)
    assert seen.sums.keys() == wanted.keys() and not seen.maxima
    for name, value in wanted.items():
        # Sums of at most 12 float32 numbers, and of 13 pairs; ipo divides a margin by beta twice.
        np.testing.assert_allclose(seen.sums[name], value, rtol=4e-6, atol=2e-6, err_msg=name)


@CASES
@pytest.mark.parametrize("reference", ["computed", "cached"])
def test_weights_are_the_slope_of_the_formula(case, reference):
    objective, batch = objective_of(case, reference), batch_of()
    logp_BS, ref_BS = logps(case[-1])
    _, slope_BS = by_hand(logp_BS, ref_BS, batch, case)
    totals, frozen = objective.totals(batch), {"reference": ref_BS}
    if reference == "cached":
        batch, frozen = batch._replace(extra=frozen), {}
    w_BS = objective.coefficients(logp_BS, batch, totals, frozen)
    assert w_BS.dtype == jnp.float32
    # A margin of 40 is off by 4e-6, and the slope by that share of itself.
    np.testing.assert_allclose(w_BS, -slope_BS, rtol=2e-5, atol=1e-30)


@CASES
def test_weights_are_minus_the_gradient_of_the_loss_that_is_reported(case):
    objective, batch = objective_of(case), batch_of()
    logp_BS, ref_BS = logps(case[-1])
    totals, frozen = objective.totals(batch), {"reference": ref_BS}

    def loss(logp_BS):
        return objective.seen(logp_BS, logp_BS, batch, totals, frozen).sums["loss"]

    w_BS = objective.coefficients(logp_BS, batch, totals, frozen)
    np.testing.assert_allclose(w_BS, -jax.grad(loss)(jnp.asarray(logp_BS)), rtol=2e-5, atol=1e-9)
    assert (np.asarray(w_BS)[batch.loss_mask == 0] == 0).all()


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(
    lengths=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=2),
    shift=st.floats(-3.0, 3.0, width=32),
    kind=st.sampled_from(["dpo_norm", "ipo"]),
)
@pytest.mark.long
def test_a_shift_of_all_tokens_changes_no_margin_of_means(lengths, shift, kind):
    """Sums would favour the longer answer by the shift times the difference in length."""
    objective = objective_of((kind, 2.0, 0.0, 0.0, 1.0))
    batch = batch_of((tuple((0, length) for pair in lengths for length in pair),))
    logp_BS, ref_BS = (x[:1] for x in logps())
    totals, frozen = objective.totals(batch), {"reference": ref_BS}
    one, other = (
        objective.seen(x, x, batch, totals, frozen).sums["margin"]
        for x in (logp_BS, logp_BS + np.float32(shift))
    )
    np.testing.assert_allclose(other, one, atol=2e-5)


def test_sure_margins_keep_a_finite_loss_and_their_slope():
    batch = batch_of((((0, 1), (0, 1)),))
    for margin in (80.0, -80.0, 2000.0, -2000.0):
        logp_BS = np.zeros((1, S), np.float32)
        logp_BS[0, 0] = margin
        frozen = {"reference": np.zeros((1, S), np.float32)}
        objective = dpo(1.0)
        seen = objective.seen(logp_BS, logp_BS, batch, 1.0, frozen)
        w_BS = objective.coefficients(logp_BS, batch, 1.0, frozen)
        np.testing.assert_allclose(seen.sums["loss"], np.logaddexp(0, -margin), rtol=1e-6)
        np.testing.assert_allclose(w_BS[0, 0], np.exp(-np.logaddexp(0, margin)), rtol=1e-5)


@pytest.mark.parametrize("num_micro", [2, 4])
def test_micro_batches_add_up_to_the_whole(num_micro):
    objective, batch = dpo(0.3, 0.05), batch_of()
    logp_BS, ref_BS = logps()
    totals = objective.totals(batch)
    whole = objective.seen(logp_BS, logp_BS, batch, totals, {"reference": ref_BS}).sums
    w_BS = objective.coefficients(logp_BS, batch, totals, {"reference": ref_BS})
    added = dict.fromkeys(whole, 0.0)
    for first in range(num_micro):
        rows = slice(first, None, num_micro)
        part, logp, frozen = batch.map(lambda x, rows=rows: x[rows]), logp_BS[rows], ref_BS[rows]
        sums = objective.seen(logp, logp, part, totals, {"reference": frozen}).sums
        added = {name: added[name] + sums[name] for name in added}
        of_part = objective.coefficients(logp, part, totals, {"reference": frozen})
        np.testing.assert_allclose(of_part, w_BS[rows], rtol=1e-6)
    for name, value in whole.items():
        np.testing.assert_allclose(added[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("spec", [P("data"), P("data", "context")])
def test_devices_that_share_a_batch_find_the_same(spec):
    mesh = jax.make_mesh((4, 2), ("data", "context"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    objective, batch = dpo(0.3), batch_of()
    logp_BS, ref_BS = logps()

    def both(logp_BS, ref_BS, batch):
        totals, frozen = objective.totals(batch), {"reference": ref_BS}
        return (
            objective.coefficients(logp_BS, batch, totals, frozen),
            objective.seen(logp_BS, logp_BS, batch, totals, frozen).sums,
        )

    wanted = both(logp_BS, ref_BS, batch)
    spread = functools.partial(jax.device_put, device=NamedSharding(mesh, spec))
    got = jax.jit(both)(*jax.tree.map(spread, (logp_BS, ref_BS, batch)))
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_batch_without_pairs_has_no_loss_and_no_slope():
    objective, batch = dpo(0.1), batch_of(((), ()))
    logp_BS, ref_BS = (x[:2] for x in logps())
    totals = objective.totals(batch)
    seen = objective.seen(logp_BS, logp_BS, batch, totals, {"reference": ref_BS})
    assert totals == 1 and not np.any(list(seen.sums.values()))
    w_BS = objective.coefficients(logp_BS, batch, totals, {"reference": ref_BS})
    np.testing.assert_array_equal(w_BS, np.zeros((2, S)))


@pytest.mark.parametrize("beta", [0.0, -0.1, float("nan"), float("inf")])
def test_a_beta_without_meaning_is_refused(beta):
    with pytest.raises(ValueError, match="beta must be a positive number, got"):
        dpo(beta)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_an_sft_weight_without_meaning_is_refused(weight):
    with pytest.raises(ValueError, match="sft_weight must be a number from 0, got"):
        ipo(0.1, sft_weight=weight)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5, float("nan")])
def test_a_label_smoothing_without_meaning_is_refused(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 0.5\), got"):
        dpo(0.1, smoothing)
