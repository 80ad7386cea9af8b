"""Claims about clips by layer and by head: data on which each of them flips."""

import fabricate
import numpy as np
import pytest

from experiments import clip_granularity
from experiments.clip_granularity import picture, verdict
from kanana_jax.report import canvas
from kanana_jax.report.metrics import Series

RATES = (0.015, 0.06)


def fabricated(folder, *, head=2.7, layer=2.7, tail=10.0, seeds=3):
    losses = {verdict.NONE: 2.7, verdict.LAYER: layer, verdict.HEAD: head}
    return [
        fabricate.run(
            folder,
            arm=arm,
            lr=lr,
            seed=seed,
            bpb=bpb,
            spread=0.001,
            peak=60.0,
            tail=tail,
            optimizer="muon" if arm == verdict.NONE else "muonclip",
        )
        for arm, bpb in losses.items()
        for lr in RATES
        for seed in range(seeds)
    ]


def claim(runs, words):
    return [one for one in verdict.judge(runs)[1] if words in one.question]


@pytest.mark.parametrize(("head", "holds"), [(2.6, True), (2.7, False), (2.8, False)])
def test_a_lower_loss_by_head_is_told(tmp_path, head, holds):
    runs = fabricated(tmp_path, head=head)
    assert [one.holds for one in claim(runs, "better than by layer")] == [holds] * 2


def test_a_clip_that_goes_on_is_told_from_one_that_stops(tmp_path):
    stopped = claim(fabricated(tmp_path / "low", tail=10.0), f"With {verdict.HEAD}")
    assert [one.holds for one in stopped] == [False] * 2
    goes_on = claim(fabricated(tmp_path / "high", tail=60.0), f"With {verdict.HEAD}")
    assert [one.holds for one in goes_on] == [True] * 2


def test_fewer_scaled_heads_are_counted(tmp_path):
    runs = fabricated(tmp_path)
    for run in runs:
        if run.arm == verdict.LAYER:  # a clip by layer scales all heads of a layer that passes
            steps_N, logits_NLH = run.series("max_logits")
            passes_NL = (logits_NLH > 30.0).any(axis=2)
            run.metrics["clip_count"] = Series(steps_N, passes_NL.sum(axis=1) * logits_NLH.shape[2])
    assert [one.holds for one in claim(runs, "scale fewer heads")] == [True] * 2
    headline = verdict.judge(runs)[0]
    assert headline.startswith("Has a clip by head a lower loss than one by layer? ")
    assert "Does it scale fewer heads? yes at 2 of 2 rates." in headline


def test_two_seeds_judge_nothing(tmp_path):
    _, found = verdict.judge(fabricated(tmp_path, seeds=2))
    assert {one.holds for one in found} == {None}


def test_the_share_over_tau_is_drawn_for_every_rate(tmp_path):
    runs = fabricated(tmp_path, seeds=1)
    sketch = picture.OverTau().draw(runs, canvas.look(runs))
    assert [len(panel.lines) for panel in sketch.figure.axes] == [3, 3]
    assert picture.OverTau().draw([], canvas.look(runs)) is None
    np.testing.assert_array_less(verdict.over_tau(runs[0]), 1.01)


def test_arms_differ_in_the_clip_alone():
    made = clip_granularity.experiment()
    optimizers = [made.base.edited(arm.edits).optimizer for arm in made.arms]
    assert [(one.name, one.clip_by) for one in optimizers] == [
        ("muon", "head"), ("muonclip", "layer"), ("muonclip", "head")
    ]  # fmt: skip
