"""Claims about the verdict on FP8: for every branch, data on which it flips."""

import fabricate
import pytest

from experiments.fp8_parity import ARMS, verdict

OPTIMIZERS = {verdict.ADAMW_FULL: "adamw", verdict.ADAMW_FP8: "adamw"}


@pytest.fixture
def sweep(tmp_path):
    """Three seeds of every arm, all with one loss; keywords change single arms."""

    def make(seeds=3, **changes):
        runs = []
        for arm in (one.name for one in ARMS):
            given = {"bpb": 3.0, "spread": 0.001} | changes.get(arm, {})
            for seed in range(seeds):
                axes = {"arm": arm, "seed": seed}
                optimizer = OPTIMIZERS.get(arm, "muonclip")
                made = fabricate.run(
                    tmp_path, arm=arm, seed=seed, axes=axes, optimizer=optimizer, **given
                )
                runs.append(made)
        return runs

    return make


def claim(runs, words):
    (found,) = [one for one in verdict.judge(runs)[1] if words in one.question]
    return found


def test_equal_losses_are_a_parity(sweep):
    headline, found = verdict.judge(sweep())
    assert headline.startswith("FP8 costs no loss that these runs could see beyond the margin:")
    assert [one.holds for one in found[:6]] == [True] * 6
    assert len(found) == 9 and "0.0075 bits per byte" in found[0].answer


def test_a_loss_beyond_the_margin_is_none(sweep):
    runs = sweep(FP8={"bpb": 3.02})
    assert verdict.judge(runs)[0].startswith("FP8 costs loss: +0.0200")
    assert claim(runs, "loss of FP8 that").holds is False
    assert claim(runs, "loss of kept as FP8").holds is True


def test_a_lower_loss_is_not_held_against_it(sweep):
    assert claim(sweep(FP8={"bpb": 2.98}), "loss of FP8 that").holds is True


def test_a_wide_band_decides_nothing(sweep):
    runs = sweep(FP8={"spread": 0.3})
    assert claim(runs, "loss of FP8 that").holds is None
    assert verdict.judge(runs)[0].startswith("These runs do not tell")


def test_one_seed_decides_nothing(sweep):
    runs = sweep(seeds=1, FP8={"bpb": 3.2})
    assert claim(runs, "loss of FP8 that").holds is None


def test_a_diverged_arm_is_not_measured(sweep):
    runs = sweep(FP8={"diverged_step": 20})
    assert claim(runs, "loss of FP8 that").answer == "Not measured."
    assert "FP8" in claim(runs, "diverged").details[0]


@pytest.mark.parametrize(("adamw", "holds"), [(3.1, True), (3.0, None), (2.9, False)])
def test_muons_cost_is_set_against_adamws(sweep, adamw, holds):
    runs = sweep(**{verdict.ADAMW_FP8: {"bpb": adamw}})
    assert claim(runs, "less than AdamW").holds is holds


def test_a_part_of_the_arms_says_what_it_cannot_judge(sweep):
    runs = [run for run in sweep() if run.arm == verdict.FULL]
    assert verdict.judge(runs)[0].startswith("The arm of FP8 did not run")


def test_peaks_and_clips_stand_beside_the_loss(sweep):
    details = claim(sweep(FP8={"peak": 55.0}), "logits").details
    assert len(details) == len(ARMS)
    assert "FP8: peak 55.0, clip events" in details[2]
