"""The verdict on rules of rates, from made-up runs of which the shift is known."""

import fabricate
import numpy as np
import pytest

from experiments import lr_transfer
from experiments.lr_transfer import picture, verdict
from kanana_jax.report import canvas

SHIFTS = {"kakao": 0.0, "spectral": -0.5, "half": 0.02, "none": -1.0}


def fabricated(tmp_path, shifts, rates=lr_transfer.RATES, sigma=0.002):
    random, runs = np.random.default_rng(0), []
    for rule, octaves in shifts.items():
        for width in lr_transfer.WIDTHS:
            best = 0.03 * (width / 32) ** octaves
            for rate in rates:
                for seed in range(3):
                    loss = 3.0 + 0.05 * np.log(rate / best) ** 2 + random.normal(0, sigma)
                    runs.append(
                        fabricate.run(
                            tmp_path,
                            arm=verdict.name(rule, width),
                            lr=rate,
                            seed=seed,
                            bpb=loss,
                            spread=0.0,
                            num_steps=2,
                            optimizer="muonclip",
                        )
                    )
    return runs


def test_rules_that_keep_the_rate_are_told_from_those_that_do_not(tmp_path):
    runs = fabricated(tmp_path, SHIFTS)
    words, found = verdict.judge(runs)
    assert words == "Rates carry over by kakao and half."
    keeps, less, cost = found[:4], found[4:7], found[7:]
    assert [one.holds for one in keeps] == [True, False, True, False]
    assert [one.holds for one in less] == [True, None, True]
    assert [one.holds for one in cost] == [True, False, True, False]
    assert "-1.01 octaves" in keeps[3].answer
    sketch = picture.Optima().draw(runs, canvas.look(runs))
    assert len(sketch.figure.axes) == 4


def test_a_best_rate_outside_of_the_sweep_decides_nothing(tmp_path):
    words, found = verdict.judge(fabricated(tmp_path, {"none": -2.0}))
    assert words.startswith("No rule is shown") and [one.holds for one in found] == [None, None]


def test_noise_that_hides_the_shift_decides_nothing(tmp_path):
    _, found = verdict.judge(fabricated(tmp_path, {"half": 0.0}, sigma=0.05))
    assert found[0].holds is None


def test_too_few_rates_are_said(tmp_path):
    words, (one,) = verdict.judge(fabricated(tmp_path, {"kakao": 0.0}, rates=(0.01, 0.06)))
    assert words.startswith("No rule") and one.holds is None
    assert "3 or more distinct positive rates" in one.details[0]


def test_fewer_than_three_seeds_judge_nothing(tmp_path):
    runs = [run for run in fabricated(tmp_path, {"kakao": 0.0}) if run.seed < 2]
    words, found = verdict.judge(runs)
    assert words.startswith("This is what 2 seeds did")
    assert {one.holds for one in found} == {None}


@pytest.mark.parametrize("width", lr_transfer.WIDTHS)
def test_arms_are_the_family_and_their_rates_those_of_the_base(width):
    made = lr_transfer.experiment()
    arms = {arm.name: made.base.edited(arm.edits) for arm in made.arms}
    for rule in lr_transfer.RULES:
        cfg = arms[verdict.name(rule, width)]
        assert cfg.model == lr_transfer.presets.tiny_family(width)
        assert cfg.optimizer.transfer == rule
