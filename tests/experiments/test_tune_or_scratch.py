"""Claims about going on and training from scratch: curves of which the crossing is known."""

import dataclasses
import json

import fabricate
import numpy as np
import pytest

from experiments import tune_or_scratch
from experiments.tune_or_scratch import SCRATCH, picture, verdict
from kanana_jax.report import canvas, metrics

STEPS = np.array([30, 60, 120, 240])
# Straight in logarithms, so that what lies between readings is known.
TUNED = 2.0 * (STEPS / 30) ** -0.1
CROSSING = 2.2 * (STEPS / 30) ** -0.2
AT = 30 * 1.1**10 * 1024  # where they are equal


def fabricated(folder, scratch, seeds=3, tuned=TUNED):
    runs = []
    for arm, loss_N in ((verdict.TUNED, tuned), (verdict.SCRATCH, scratch)):
        for seed in range(seeds):
            run = fabricate.run(folder, arm=arm, lr=0.01, seed=seed, num_steps=2)
            lines = [
                json.dumps({"step": int(step), "heldout_bpb_ko_average": loss + 1e-4 * seed})
                for step, loss in zip(STEPS, loss_N, strict=True)
            ]
            (run.directory / metrics.METRICS_NAME).write_text("\n".join(lines) + "\n")
            data = {"batch_size": 8, "seq_len": 128}
            runs.append(dataclasses.replace(run, config=run.config | {"data": data}))
    return runs


@pytest.mark.parametrize(
    ("scratch", "holds", "words"),
    [
        (CROSSING, (True, True), "overtakes it"),
        (1.5 * TUNED, (True, False), "nothing crosses"),
        (0.9 * TUNED, (False, True), "from the first reading on"),
    ],
)
def test_who_is_ahead_is_told(tmp_path, scratch, holds, words):
    headline, (ahead, overtakes, crossing) = verdict.judge(fabricated(tmp_path, scratch))
    assert (ahead.holds, overtakes.holds) == holds and words in headline
    assert (crossing.answer == "Not seen.") is (holds != (True, True))


def test_the_crossing_is_where_losses_are_equal(tmp_path):
    *_, crossing = verdict.judge(fabricated(tmp_path, CROSSING))[1]
    tokens = float(crossing.details[0].partition(": ")[2].replace(",", ""))
    assert tokens == pytest.approx(AT, rel=1e-3)
    assert "in 3 of 3 seeds" in crossing.answer


def test_one_seed_judges_nothing(tmp_path):
    headline, found = verdict.judge(fabricated(tmp_path, CROSSING, seeds=1))
    assert "do not tell" in headline and {one.holds for one in found} == {None}


def test_both_are_drawn(tmp_path):
    runs = fabricated(tmp_path, CROSSING, seeds=1)
    (panel,) = picture.LossOfTokens().draw(runs, canvas.look(runs)).figure.axes
    assert len(panel.lines) == 2
    assert picture.LossOfTokens().draw([], canvas.look(runs)) is None


def test_both_read_the_target_alone_and_the_base_none_of_it():
    base, tuned, scratch = tune_or_scratch.experiment().stages
    assert base.base.data.weights[0] == 0 and tuned.init_from == verdict.BASE
    named = dataclasses.replace(tuned.base, name=SCRATCH, question=scratch.base.question)
    assert named == scratch.base
    assert scratch.base.data.weights == (1.0, 0.0, 0.0, 0.0)
