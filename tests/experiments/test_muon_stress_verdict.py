"""Claims about the verdict: for every branch, data on which it flips."""

import dataclasses
import re

import fabricate
import pytest

from experiments.muon_stress import arms, verdict

TAU = 30.0


@pytest.fixture
def sweep(tmp_path):
    """Two Muon arms and MuonClip at one stress rate; keywords change single runs."""

    def make(lr=0.03, *, muon=None, polar=None, clip=None, seeds=1):
        runs = []
        for seed in range(seeds):
            for arm, usual, changes in (
                ("Muon NS", {"peak": 12 * TAU, "bpb": 3.0}, muon),
                ("Muon PE", {"peak": 9 * TAU, "bpb": 3.1}, polar),
                ("MuonClip", {"peak": 1.6 * TAU, "tail": 1.03 * TAU, "bpb": 2.9}, clip),
            ):
                settings = usual | (changes or {})
                settings["bpb"] += settings.pop("seed_step", 0.0) * seed
                runs.append(fabricate.run(tmp_path, arm=arm, lr=lr, seed=seed, **settings))
        return runs

    return make


def _outcome(runs, lr=0.03):
    (found,) = [one for one in verdict.judge(runs).outcomes["MuonClip"] if one.lr == lr]
    return found


def _claim(runs, words):
    (found,) = [claim for claim in verdict.judge(runs).claims if words in claim.question]
    return found


def test_the_clip_held_where_muon_blew_up(sweep):
    judged = verdict.judge(sweep(seeds=3))
    assert judged.headline == (
        "MuonClip held: at lr 0.03, where unclipped Muon's attention logits pass 3 x tau, its "
        "logits stay bounded and its held-out loss is better than every unclipped Muon arm's."
    )
    assert [claim.holds for claim in judged.claims] == [True, True, True, None]


@pytest.mark.parametrize(("peak", "blew_up"), [(2.99, False), (3.01, True)])
def test_muon_blows_up_past_three_tau(sweep, peak, blew_up):
    runs = sweep(muon={"peak": peak * TAU}, polar={"peak": 0.5 * TAU})
    assert _claim(runs, "unclipped Muon arms pass").holds is blew_up
    assert _outcome(runs).blew_up is blew_up
    assert verdict.judge(runs).headline.startswith("Nothing blew up") is not blew_up


def test_nothing_blew_up_names_the_largest_peak(sweep):
    runs = sweep(muon={"peak": 40.0}, polar={"peak": 51.0}, clip={"peak": 20.0, "tail": 20.0})
    headline = verdict.judge(runs).headline
    assert "the largest peak is 1.70 x tau, Muon PE at lr 0.03" in headline
    assert "cannot show" in headline
    assert "the clip never acted" in _outcome(runs).words


def test_a_blow_up_must_show_in_every_seed(tmp_path, sweep):
    runs = sweep(seeds=2, polar={"peak": TAU})
    assert _outcome(runs).blew_up
    calm = fabricate.run(tmp_path, arm="Muon NS", lr=0.03, seed=1, peak=TAU)
    runs = [calm if (run.arm, run.seed) == ("Muon NS", 1) else run for run in runs]
    assert not _outcome(runs).blew_up


def test_adamw_does_not_count_as_an_unclipped_muon_arm(tmp_path, sweep):
    runs = sweep(muon={"peak": TAU}, polar={"peak": TAU})
    runs.append(fabricate.run(tmp_path, arm="AdamW", lr=0.03, peak=20 * TAU, bpb=1.0))
    assert not _outcome(runs).blew_up
    assert _outcome(runs).comparison.outcome == "better"


@pytest.mark.parametrize(
    ("peak", "tail", "bounded"),
    [(1.99, 1.24, True), (2.01, 1.24, False), (1.99, 1.26, False)],
)
def test_bounded_means_peak_under_two_and_last_tenth_under_one_and_a_quarter(
    sweep, peak, tail, bounded
):
    runs = sweep(clip={"peak": peak * TAU, "tail": tail * TAU})
    assert _outcome(runs).bounded is bounded
    assert _claim(runs, "last tenth").holds is bounded
    headline = verdict.judge(runs).headline
    assert headline.startswith("MuonClip held:" if bounded else "MuonClip failed:")


@pytest.mark.parametrize(("peak", "tail"), [(2.5, 1.0), (1.9, 1.5)])
def test_the_worst_seed_decides_whether_the_clip_is_bounded(tmp_path, sweep, peak, tail):
    runs = sweep(seeds=3)
    assert _outcome(runs).bounded
    wild = fabricate.run(
        tmp_path, arm="MuonClip", lr=0.03, seed=2, peak=peak * TAU, tail=tail * TAU
    )
    runs = [wild if (run.arm, run.seed) == ("MuonClip", 2) else run for run in runs]
    assert not _outcome(runs).bounded


@pytest.mark.parametrize(
    ("bpb", "outcome"), [(2.9, "better"), (2.99, "equal"), (3.01, "equal"), (3.2, "worse")]
)
def test_arms_are_compared_sequence_by_sequence(sweep, bpb, outcome):
    # Sequences differ from each other by 0.7 bits per byte; unpaired, nothing of this would show.
    runs = sweep(clip={"bpb": bpb}, seeds=3)
    assert _outcome(runs).comparison.outcome == outcome
    assert _claim(runs, "at the same rate").holds is (outcome != "worse")
    assert verdict.judge(runs).headline.startswith(
        "MuonClip failed:" if outcome == "worse" else "MuonClip held:"
    )


def test_a_difference_inside_a_wide_band_is_not_resolved(sweep):
    runs = sweep(clip={"bpb": 3.1, "spread": 1.0}, polar={"bpb": 3.5}, seeds=3)
    assert _outcome(runs).comparison.outcome == "not resolved"
    claim = _claim(runs, "at the same rate")
    assert claim.holds is None
    assert re.search(r"against Muon NS: \+0\.1000 \+- 0\.1\d+ bits per byte, not resolved "
                     r"\(detects 0\.2\d+\)", claim.details[0])  # fmt: skip
    assert "not told apart" in verdict.judge(runs).headline


def test_the_luck_of_seeds_widens_the_band(sweep):
    lucky = {"bpb": 3.0, "seed_step": 0.2}
    assert _outcome(sweep(clip={"bpb": 3.2}, seeds=3)).comparison.outcome == "worse"
    assert _outcome(sweep(clip=lucky, seeds=3)).comparison.outcome == "not resolved"


def test_the_least_favourable_of_the_unclipped_arms_counts(sweep):
    runs = sweep(clip={"bpb": 3.05}, muon={"bpb": 2.9}, polar={"bpb": 3.2}, seeds=3)
    assert _outcome(runs).comparison.outcome == "worse"
    words = _outcome(runs).comparison.words
    assert [word.split(":")[0] for word in words] == ["against Muon NS", "against Muon PE"]
    assert "better" in words[1]


def test_one_seed_gives_differences_but_no_verdict_about_loss(sweep):
    runs = sweep()
    assert _outcome(runs).comparison.outcome == "better"
    claim = _claim(runs, "at the same rate")
    assert claim.holds is None
    assert "what happened in one seed" in claim.answer
    assert verdict.judge(runs).headline.endswith("This is what one seed did.")
    assert "one seed" not in verdict.judge(sweep(seeds=3)).text()


def test_without_losses_by_sequence_nothing_is_compared(sweep):
    runs = sweep(clip={"spread": 0.0})
    assert _outcome(runs).comparison.outcome == "not measured"
    assert "no losses by sequence in MuonClip-0.03-0" in _outcome(runs).comparison.words[0]


def test_arms_with_other_held_out_text_are_not_compared(sweep):
    runs = [
        dataclasses.replace(run, values=run.values | {"heldout_text": run.arm})
        if arms.is_clipped(run)
        else run
        for run in sweep()
    ]
    assert _outcome(runs).comparison.outcome == "not measured"
    assert "different held-out sequences" in _outcome(runs).comparison.words[0]


def test_a_diverged_clip_failed(sweep):
    runs = sweep(clip={"diverged_step": 20})
    assert _outcome(runs).bounded is False
    assert _outcome(runs).comparison.outcome == "worse"
    judged = verdict.judge(runs)
    assert judged.headline.startswith("MuonClip failed:")
    assert judged.claims[-1].details == ("MuonClip at lr 0.03: diverged at step 20",)


def test_a_clip_is_better_than_muon_arms_that_all_diverged(sweep):
    runs = sweep(muon={"diverged_step": 36}, polar={"diverged_step": 36})
    assert _outcome(runs).comparison.outcome == "better"
    assert verdict.judge(runs).headline.startswith("MuonClip held:")


def test_a_diverged_muon_arm_is_not_the_best_one(sweep):
    runs = sweep(muon={"diverged_step": 36, "bpb": 1.0})
    assert "Muon NS diverged and it did not" in _outcome(runs).comparison.words
    assert _outcome(runs).comparison.outcome == "better"


def test_a_muon_arm_that_lost_one_seed_loses(tmp_path, sweep):
    runs = sweep(seeds=3, muon={"bpb": 1.0})
    assert _outcome(runs).comparison.outcome == "worse"
    dead = fabricate.run(tmp_path, arm="Muon NS", lr=0.03, seed=1, diverged_step=36)
    runs = [dead if (run.arm, run.seed) == ("Muon NS", 1) else run for run in runs]
    assert _outcome(runs).comparison.outcome == "better"


def test_when_all_diverged_there_is_no_comparison_and_the_clip_failed(sweep):
    dead = {"diverged_step": 36}
    runs = sweep(muon=dead, polar=dead, clip=dead)
    assert _outcome(runs).comparison.outcome == "not measured"
    assert verdict.judge(runs).headline.startswith("MuonClip failed:")


def test_no_divergence_is_said_plainly(sweep):
    assert _claim(sweep(), "diverged").answer == "None."


def test_holding_at_one_rate_and_failing_at_another_is_held_only_in_part(sweep):
    runs = sweep(lr=0.03) + sweep(lr=0.1, clip={"peak": 5 * TAU, "tail": 5 * TAU})
    headline = verdict.judge(runs).headline
    assert headline.startswith("MuonClip held only in part: at lr 0.03")
    assert "It failed at lr 0.1: peak 5.00 x tau" in headline


def test_a_cost_where_nothing_blew_up_is_not_kept_quiet(sweep):
    calm = {"peak": 20.0, "tail": 20.0}
    runs = sweep(lr=0.03, seeds=3)
    runs += sweep(lr=0.003, muon=calm, polar=calm, clip=calm | {"bpb": 3.2}, seeds=3)
    headline = verdict.judge(runs).headline
    assert headline.startswith("MuonClip held:")
    assert headline.endswith("Its held-out loss is worse at lr 0.003.")


def test_without_a_clipped_arm_nothing_is_claimed_about_it(sweep):
    runs = [run for run in sweep() if not arms.is_clipped(run)]
    assert verdict.judge(runs).headline.startswith("No arm applies QK-Clip")


def test_without_an_unclipped_muon_arm_the_clip_cannot_be_judged(sweep):
    runs = [run for run in sweep() if arms.is_clipped(run)]
    judged = verdict.judge(runs)
    assert judged.headline == "No unclipped Muon arm ran, so MuonClip cannot be judged."
    assert judged.claims[0].holds is None


def test_without_an_unclipped_muon_arm_each_arm_is_compared_with_the_first(tmp_path):
    runs = [
        fabricate.run(tmp_path, arm=arm, seed=seed, bpb=bpb, optimizer="adamw")
        for arm, bpb in (("AdamW", 3.0), ("AdamW, b2 .99", 2.8), ("AdamW, b2 .9", 3.2))
        for seed in range(3)
    ]
    claims = [one for one in verdict.judge(runs).claims if "as good as AdamW's" in one.question]
    assert [claim.holds for claim in claims] == [True, False]
    assert "against AdamW: -0.2000 +- " in claims[0].details[0]


def test_a_clipped_arm_that_has_not_run_at_the_stress_rate_did_not_hold(sweep):
    runs = [run for run in sweep(lr=0.03) if not arms.is_clipped(run)] + sweep(lr=0.1)
    assert "It failed at lr 0.03: not run" in verdict.judge(runs).headline


def test_no_runs_are_refused():
    with pytest.raises(ValueError, match="at least one finished run"):
        verdict.judge([])
