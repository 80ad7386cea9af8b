"""Claims about the verdict of depth_upscaling: data on which it flips."""

import dataclasses
import json

import fabricate
import numpy as np
import pytest
from test_staged_experiments import holds, made

from experiments import depth_upscaling
from experiments.depth_upscaling import report, verdict
from kanana_jax.model import presets
from kanana_jax.plan import flops
from kanana_jax.report import metrics

_BASE_LOSS, _SLOPE = 3.0, 0.4


def _shaped(run, shape):
    """`run` with the settings from which its FLOPs follow."""
    data = {"batch_size": 8, "seq_len": 128}
    settings = {"model": dataclasses.asdict(shape), "data": data, "train": {}}
    return dataclasses.replace(run, config=settings)


def _with_curve(run, losses):
    """`run` with a held-out loss at evenly spaced steps, the last at its end."""
    path = run.directory / metrics.METRICS_NAME
    (end,) = path.read_text().splitlines()
    steps = [(number + 1) * run.steps // len(losses) for number in range(len(losses))]
    points = [{"step": step, "heldout_bpb": loss} for step, loss in zip(steps, losses, strict=True)]
    last = json.loads(end) | points[-1]
    path.write_text("".join(json.dumps(one) + "\n" for one in [*points[:-1], last]))
    return dataclasses.replace(run)


@pytest.fixture
def runs(tmp_path):
    """Grown models that cost what `factor` times as many FLOPs do from scratch.

    A curve is relative to the parent's loss, of a growth by its name.
    """
    parent_shape = presets.tiny(vocab_size=258)
    grown_shape = dataclasses.replace(parent_shape, num_layers=6)
    parent, grown = (flops.of_model(one, 8, 128) for one in (parent_shape, grown_shape))
    whole = 150 + 400 * parent / grown

    def make(*, factor=1.0, start=0.5, curve=(-0.1, -0.2), on=0.0, seeds=3):
        found = []
        for seed in range(seeds):
            level = _BASE_LOSS + 0.05 * seed

            def add(arm, loss, steps, shape, curve=(), seed=seed):
                run = made(tmp_path, arm, seed, {"": loss}, lr=0, steps=steps)
                found.append(_shaped(_with_curve(run, curve) if curve else run, shape))

            add(verdict.PARENT, level + 0.3, 400, parent_shape)
            for name, share in verdict.SHARES.items():
                loss = level - _SLOPE * np.log(share)
                add(f"{verdict.SCRATCH}: {name}", loss, round(share * whole), grown_shape)
            loss = level - _SLOPE * np.log(factor) + 0.01 * (seed - 1)
            add(verdict.ON, loss + on, round(150 * grown / parent), parent_shape)
            for name in verdict.GROWTHS:
                at_start = level + 0.3 + start
                add(verdict.start_of(name), at_start, 0, grown_shape)
                add(name, loss, 150, grown_shape, [level + 0.3 + one for one in curve])
        return found

    return make


@pytest.mark.parametrize(
    ("factor", "loss", "saved", "headline"),
    [
        (1.5, True, True, "Growth by stack, interpose and zeros saves FLOPs"),
        (1.0, False, None, "These runs do not tell"),
        (0.5, False, False, "No growth saves FLOPs"),
    ],
)
def test_growth_saves_what_its_loss_costs_from_scratch(runs, factor, loss, saved, headline):
    found = runs(factor=factor)
    words, given = verdict.judge(found)
    assert words.startswith(headline)
    assert holds(given[:3]) == [loss] * 3
    if factor != 1.0:
        assert holds(given[3:6]) == [saved] * 3
    by_seed = verdict.saving(found, "stack")
    wanted = [1 - np.exp(0.01 * (seed - 1) / _SLOPE) / factor for seed in range(3)]
    np.testing.assert_allclose(list(by_seed.values()), wanted, atol=4e-3)


@pytest.mark.parametrize(("on", "wanted"), [(0.3, True), (0.0, False), (-0.3, False)])
def test_the_parent_that_goes_on_is_the_control(runs, on, wanted):
    assert holds(verdict.judge(runs(on=on))[1][6:9]) == [wanted] * 3


@pytest.mark.parametrize(
    ("start", "curve", "steps"),
    [
        (0.5, (-0.1, -0.2), 75 * 5 / 6),
        (-0.1, (-0.1, -0.2), 0),
        (0.0, (0.2, -0.2), 75 * 1.5),  # what was lost only later counts too
        (0.5, (-0.1, 0.1), 150),
    ],
)
def test_a_loss_is_regained_where_the_curve_stays_below_it(runs, start, curve, steps):
    found = runs(start=start, curve=curve)
    by_seed = verdict.regained(found, "zeros")
    np.testing.assert_allclose(list(by_seed.values()), [steps / 400] * 3, atol=1e-6)
    _, given = verdict.judge(found)
    assert holds(given[9:]) == [steps / 400 < verdict.SOON] * 3


def test_one_seed_decides_nothing(runs):
    words, found = verdict.judge(runs(factor=1.5, seeds=1))
    assert words.startswith("These runs do not tell") and holds(found) == [None] * 12


def test_the_report_draws_loss_against_flops(runs, tmp_path):
    words = report.write(runs(), fabricate.about(), tmp_path / "report.html")
    assert "zeros_start" in words
    assert (tmp_path / "loss_of_flops.png").stat().st_size > 10_000
    assert "zeros: saves" in (tmp_path / "report.html").read_text()


def test_arms_have_equal_flops():
    stages = {stage.name: stage for stage in depth_upscaling.experiment().stages}

    def cost(name, edits=()):
        cfg = stages[name].base.edited(edits)
        one = flops.of_model(cfg.model, cfg.data.batch_size, cfg.data.seq_len)
        return one * cfg.train.num_steps

    parent = cost(verdict.PARENT)
    scratch = {arm.name: cost(verdict.SCRATCH, arm.edits)
               for arm in stages[verdict.SCRATCH].config.arms}  # fmt: skip
    equal = scratch[verdict.EQUAL]
    for name in (*verdict.GROWTHS, verdict.ON):
        assert parent + cost(name) == pytest.approx(equal, rel=0.005)
    for name, share in verdict.SHARES.items():
        assert scratch[name] == pytest.approx(share * equal, rel=0.005)
