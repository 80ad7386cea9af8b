"""Claims about arms above their own best rates."""

import dataclasses

import fabricate
import numpy as np
import pytest

from experiments.muon_stress import arms, rises, verdict
from kanana_jax.report import pairs

TAU = 30.0


def rates(folder, arm, losses, *, peaks=None, seeds=3, **settings):
    """Runs of one arm: `losses` and `peaks` (over tau) by rate."""
    return [
        fabricate.run(
            folder,
            arm=arm,
            lr=lr,
            seed=seed,
            bpb=bpb + 0.001 * seed,
            peak=TAU * (peaks or {}).get(lr, 1.0),
            **settings,
        )
        for lr, bpb in losses.items()
        for seed in range(seeds)
    ]


def bests(runs):
    return {one.arm: one for one in pairs.best(runs)}


@pytest.mark.parametrize("losses", [{0.01: 3.0, 0.04: 3.1}, {0.01: 3.1, 0.04: 3.0}])
def test_a_best_rate_at_the_edge_is_said_to_be_there(tmp_path, losses):
    runs = rates(tmp_path, "MuonClip", losses)
    (claim,) = [one for one in verdict.judge(runs).claims if "below and above" in one.question]
    assert (claim.holds, claim.answer) == (False, "Not MuonClip.")
    assert "at the edge of its sweep" in claim.details[0]


def test_a_stress_rate_lies_within_a_factor_two_of_four_times_the_best(tmp_path):
    runs = rates(tmp_path / "near", "MuonClip", {0.01: 3.0, 0.019: 3.1})
    assert rises.stress_lr(runs, bests(runs)["MuonClip"]) is None
    runs = rates(tmp_path, "MuonClip", {0.01: 3.0, 0.021: 3.1, 0.05: 3.2, 0.09: 3.4})
    assert rises.stress_lr(runs, bests(runs)["MuonClip"]) == 0.05


ADAMW = {0.001: 3.4, 0.004: 3.5, 0.02: 4.0}
CLIP = {0.005: 3.1, 0.02: 3.0}


@pytest.mark.parametrize(
    ("stressed", "outcome"), [(3.05, "better"), (3.1, "equal"), (3.3, "worse")]
)
def test_rises_are_compared_at_the_same_multiple_of_the_own_best_rate(tmp_path, stressed, outcome):
    runs = rates(tmp_path, "AdamW", ADAMW) + rates(tmp_path, "MuonClip", CLIP | {0.08: stressed})
    found = bests(runs)
    compared = rises.compare(runs, found["MuonClip"], found["AdamW"])
    assert compared.outcome == outcome
    assert "at 4 times its best rate against AdamW at 4 times" in compared.words[0]


def test_without_a_rate_that_far_out_the_rise_is_not_measured(tmp_path):
    runs = rates(tmp_path, "AdamW", ADAMW) + rates(tmp_path, "MuonClip", CLIP)
    found = bests(runs)
    compared = rises.compare(runs, found["MuonClip"], found["AdamW"])
    assert compared.outcome == "not measured"
    assert compared.words == ("no rate near 4 times its best: MuonClip",)


@pytest.mark.parametrize(("peak", "holds"), [(30.0, True), (5.0, False)])
def test_logits_are_compared_where_both_have_lost_equally_much(tmp_path, peak, holds):
    # AdamW has lost 0.5 at its highest rate but one: there its peak is 10 tau.
    adamw = rates(
        tmp_path, "AdamW", {0.001: 3.5, 0.004: 4.0, 0.02: 5.0},
        peaks={0.001: 1.0, 0.004: 10.0, 0.02: 100.0},
    )  # fmt: skip
    runs = adamw + rates(tmp_path, "Muon NS", {0.01: 3.0, 0.04: 3.5}, peaks={0.04: peak})
    found = bests(runs)
    rise, ratios = rises.logits_at_equal_rise(runs, found["Muon NS"], found["AdamW"])
    np.testing.assert_allclose([rise, *ratios], [0.5, *[peak / 10] * 3], rtol=1e-6)
    (claim,) = [one for one in verdict.judge(runs).claims if "At equal loss" in one.question]
    assert claim.holds is holds


def test_logits_are_not_extrapolated_beyond_what_the_other_arm_lost(tmp_path):
    runs = rates(tmp_path, "AdamW", ADAMW) + rates(tmp_path, "Muon NS", {0.01: 3.0, 0.04: 4.0})
    found = bests(runs)
    assert rises.logits_at_equal_rise(runs, found["Muon NS"], found["AdamW"]) is None


def test_seeds_that_disagree_leave_the_growth_open(tmp_path):
    adamw = rates(tmp_path, "AdamW", {0.001: 3.5, 0.004: 4.5}, peaks={0.001: 10.0, 0.004: 10.0})
    muon = rates(tmp_path, "Muon NS", {0.01: 3.0, 0.04: 3.5}, peaks={0.04: 9.0})
    odd = fabricate.run(tmp_path, arm="Muon NS", lr=0.04, seed=2, bpb=3.5, peak=11 * TAU)
    runs = [odd if (arms.lr(run), run.seed) == (0.04, 2) else run for run in adamw + muon]
    (claim,) = [one for one in verdict.judge(runs).claims if "At equal loss" in one.question]
    assert (claim.holds, claim.answer) == (None, "Not resolved.")


def test_unpaired_runs_have_no_rise_to_compare(tmp_path):
    runs = rates(tmp_path, "AdamW", ADAMW) + rates(tmp_path, "MuonClip", CLIP | {0.08: 3.3})
    runs = [dataclasses.replace(run, values=run.values | {"heldout_text": run.arm}) for run in runs]
    found = bests(runs)
    compared = rises.compare(runs, found["MuonClip"], found["AdamW"])
    assert compared.outcome == "not measured"
    assert "different held-out sequences" in compared.words[0]
