"""Claims about what a comparison without a judge of its own says of its arms."""

import fabricate
import numpy as np
import pytest

from kanana_jax.report import claims, comparison, pairs, results, tables


def cells(folder, arm, losses, *, seeds=3, axis="optimizer.lr", **settings):
    """Runs of one arm; `losses` has the held-out loss at each value of the axis."""
    return [
        fabricate.run(
            folder / str(value), arm=arm, seed=seed, bpb=bpb + 0.001 * seed,
            axes={"arm": arm, axis: value, "seed": seed}, **settings,
        )
        for value, bpb in losses.items()
        for seed in range(seeds)
    ]  # fmt: skip


def judged(runs):
    return comparison.judge(runs, tables.summarize(runs))


def found(runs, words):
    (claim,) = [one for one in judged(runs) if words in one.question]
    return claim


def test_each_arm_is_compared_with_the_first_at_the_same_value(tmp_path):
    runs = cells(tmp_path, "AdamW", {1: 3.0, 2: 3.0})
    runs += cells(tmp_path, "Muon NS", {1: 2.8, 2: 3.2}) + cells(tmp_path, "Muon PE", {2: 2.8})
    claim = found(runs, "Is Muon NS's held-out loss as good as AdamW's at the same lr?")
    assert (claim.holds, claim.answer) == (False, "Better at lr 1; worse at lr 2.")
    assert "lr 1: against AdamW: -0.2000 +- " in claim.details[0]
    claim = found(runs, "Is Muon PE's held-out loss")
    assert (claim.holds, claim.details[0]) == (True, "lr 1: not run")


def test_arms_alone_are_compared_without_a_place(tmp_path):
    runs = [
        fabricate.run(tmp_path, arm=arm, seed=seed, bpb=bpb, axes={"arm": arm, "seed": seed})
        for arm, bpb in (("AdamW", 3.0), ("Muon NS", 2.8))
        for seed in range(3)
    ]
    compared, divergence = judged(runs)
    assert compared.question == "Is Muon NS's held-out loss as good as AdamW's?"
    assert (compared.holds, compared.answer) == (True, "Better.")
    assert (divergence.holds, divergence.answer) == (None, "None.")


def test_one_seed_gives_differences_but_no_verdict(tmp_path):
    runs = cells(tmp_path, "AdamW", {1: 3.0}, seeds=1) + cells(tmp_path, "Muon", {1: 2.8}, seeds=1)
    claim = found(runs, "as good as")
    assert claim.holds is None
    assert "what happened in one seed" in claim.answer
    assert comparison.headline(tables.summarize(runs)).endswith("This is what one seed did.")


def test_the_best_place_has_the_lowest_mean_loss(tmp_path):
    runs = cells(tmp_path, "MuonClip", {0.001: 3.1, 0.004: 3.0, 0.016: 3.3})
    (best,) = pairs.best(runs)
    assert (best.place, best.is_bracketed) == ((("optimizer.lr", 0.004),), True)
    np.testing.assert_allclose(best.heldout_bpb, 3.001, rtol=1e-12)
    claim = found(runs, "Did every arm run below and above its own best lr?")
    assert (claim.holds, claim.answer) == (True, "Yes.")
    assert claim.details == ("MuonClip: lr 0.004 (3.0010 bits per byte)",)


@pytest.mark.parametrize("losses", [{0.01: 3.0, 0.04: 3.1}, {0.01: 3.1, 0.04: 3.0}])
def test_a_best_place_at_the_edge_is_not_bracketed(tmp_path, losses):
    runs = cells(tmp_path, "MuonClip", losses)
    assert pairs.best(runs)[0].is_bracketed is False
    claim = found(runs, "below and above")
    assert (claim.holds, claim.answer) == (False, "Not MuonClip.")
    assert "at the edge of its sweep" in claim.details[0]


def test_a_place_at_which_a_seed_diverged_is_not_the_best(tmp_path):
    runs = cells(tmp_path, "MuonClip", {0.01: 3.0, 0.04: 2.0})
    dead = cells(tmp_path / "dead", "MuonClip", {0.04: 2.0}, diverged_step=20)[1]
    runs = [dead if (run.place, run.seed) == (dead.place, 1) else run for run in runs]
    assert pairs.best(runs)[0].place == (("optimizer.lr", 0.01),)


def test_values_that_are_words_have_a_best_but_no_edge(tmp_path):
    runs = cells(tmp_path, "MuonClip", {"web": 3.0, "books": 2.0}, axis="data.source")
    claim = found(runs, "Which source is best for each arm?")
    assert (claim.holds, claim.answer) == (
        None, "MuonClip: source books (2.0010 bits per byte).",
    )  # fmt: skip


def test_with_two_axes_a_best_place_is_inside_of_both(tmp_path):
    def sweep(best):
        return [
            fabricate.run(
                tmp_path / f"{best}-{lr}-{width}", arm="Muon", axes={"arm": "Muon", "lr": lr,
                "width": width}, bpb=2.0 if (lr, width) == best else 3.0, num_steps=5,
            )
            for lr in (1, 2, 3)
            for width in (8, 16, 32)
        ]  # fmt: skip

    assert pairs.best(sweep((2, 16)))[0].is_bracketed is True
    assert pairs.best(sweep((2, 8)))[0].is_bracketed is False
    claim = found(sweep((2, 16)), "its own best lr and width")
    assert claim.details == ("Muon: lr 2, width 16 (2.0000 bits per byte)",)


def test_arms_are_compared_each_at_its_own_best_place(tmp_path):
    runs = cells(tmp_path, "AdamW", {0.001: 3.4, 0.004: 3.5}) + cells(
        tmp_path, "MuonClip", {0.005: 3.1, 0.02: 3.0}
    )
    adamw, clip = pairs.best(runs)
    compared = pairs.compare_best(runs, clip, adamw)
    assert compared.outcome == "better"
    assert compared.words[0].startswith("lr 0.02 against lr 0.001: against AdamW: -0.4000 +- ")
    claim = found(runs, "At its own best lr, is MuonClip as good as AdamW at its own?")
    assert (claim.holds, claim.details) == (True, compared.words)


def test_a_sweep_without_arms_is_described_by_its_places(tmp_path):
    runs = [
        fabricate.run(tmp_path / f"{lr}", bpb=bpb, axes={"lr": lr}, diverged_step=dead)
        for lr, bpb, dead in ((1, 3.0, None), (2, 2.9, None), (3, 3.2, 20))
    ]
    assert comparison.headline(tables.summarize(runs)).startswith(
        "The lowest held-out loss is 2.9000 +- 0.0050 bits per byte: lr 2."
    )
    best, divergence = judged(runs)
    assert best.details == ("lr 2 (2.9000 bits per byte)",)
    assert divergence.answer == "lr 3."
    assert results.arms(runs) == [""]


def test_when_nothing_finished_the_headline_says_so(tmp_path):
    dead = cells(tmp_path, "AdamW", {1: 3.0, 2: 3.0}, diverged_step=20)
    assert comparison.headline(tables.summarize(dead)) == "No run ended with a held-out loss."
    claim = found(dead, "best")
    assert (claim.holds, claim.answer) == (None, "None finished.")


def test_claims_read_as_drawn_here():
    drawn = claims.text("All is well.", [claims.Claim("Is it?", True, "Yes.", ("as far as seen",))])
    assert drawn == "All is well.\n\n[yes] Is it?\n      Yes.\n        as far as seen\n"


@pytest.mark.parametrize(
    ("now", "least", "holds", "answer"),
    [
        ([0.5, 0.52, 0.51], 0.2, True, "It rises by 0.3"),
        ([0.5, 0.52, 0.51], 0.4, False, "It rises by 0.3"),
        ([0.1, 0.9, 0.4], 0.2, None, "It rises by 0.2"),
        ([0.1, 0.11, 0.1], 0.0, False, "It falls by 0.1"),
        ([0.5, 0.52], 0.2, None, "It rises by 0.3"),  # two seeds say too little
    ],
)
def test_a_rise_is_judged_seed_by_seed(now, least, holds, answer):
    was = {0: 0.2, 1: 0.21, 2: 0.21, 9: 0.0}
    found = claims.rises("Does it?", dict(enumerate(now)), was, least)
    assert found.holds is holds
    assert found.answer.startswith(answer)


def test_a_rise_that_was_not_measured_is_not_judged():
    assert claims.rises("Does it?", {0: 1.0}, {1: 0.0}).answer == "Not measured."
    assert claims.rises("Does it?", {0: float("nan")}, {0: 0.0}).holds is None


@pytest.mark.parametrize(
    ("values", "holds", "answer"),
    [
        ([0.6, 0.61, 0.62], True, "The share is 0.610 +- "),
        ([0.4, 0.41, 0.42], False, "The share is 0.410 +- "),
        ([0.3, 0.9, 0.7], None, "The share is 0.633 +- "),
        ([0.6, 0.61], None, "The share is 0.605 +- "),  # two seeds say too little
        ([0.9], None, "One seed; no band."),
        ([float("nan")], None, "Not measured."),
    ],
)
def test_a_number_is_above_another_only_with_its_whole_band(values, holds, answer):
    found = claims.above("Is it?", dict(enumerate(values)), 0.5, "The share")
    assert found.holds is holds
    assert found.answer.startswith(answer)
