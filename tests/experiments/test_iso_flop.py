"""Compute to a loss, from made-up curves of which it is known; and the verdicts on it."""

import dataclasses
import json

import fabricate
import numpy as np
import pytest

from experiments import head_count, sparsity_law
from experiments.head_count import verdict as heads_verdict
from experiments.sparsity_law import measures, picture, verdict
from kanana_jax import config
from kanana_jax.model import presets
from kanana_jax.report import canvas, metrics, results

RATES = (0.0075, 0.015, 0.03)
SIZES = {"batch_size": 8, "seq_len": 128}


def fabricated(folder, made, savings, seeds=3):
    """Runs whose loss falls with the logarithm of tokens; an arm needs `savings` fewer of them."""
    runs = []
    for arm, saved in zip(made.arms, savings, strict=True):
        cfg = made.base.edited(arm.edits).with_vocab(258)
        for lr in RATES:
            for seed in range(seeds):
                run = fabricate.run(folder, arm=arm.name, lr=lr, seed=seed, num_steps=2)
                path = run.directory / metrics.METRICS_NAME
                lines = []
                for step in range(10, 110, 10):
                    loss = 4.0 - 0.3 * np.log(step * saved) + 0.5 * (lr != 0.015) + 0.01 * seed
                    lines.append(json.dumps({"step": step, "heldout_bpb_average": loss}))
                path.write_text("\n".join(lines) + "\n")
                of_model = json.loads(config.to_json(cfg))["model"]
                runs.append(
                    dataclasses.replace(run, config=run.config | {"model": of_model, "data": SIZES})
                )
    return [dataclasses.replace(run) for run in runs]


def test_gains_are_ratios_of_flops(tmp_path):
    made = sparsity_law.experiment()
    runs = fabricated(tmp_path, made, (1.0, 1.2, 1.5, 1.6))
    found = measures.of_arms(runs)
    costs = [measures.flops_per_token(runs, arm) for arm in found]
    assert costs == sorted(costs) and costs[-1] < 1.3 * costs[0]  # the router alone grows
    gains = measures.gains(runs, found, verdict.name(8), verdict.name(48))
    # Between readings curves are straight in logarithms, which a loss that falls like this is not.
    assert list(gains.values()) == pytest.approx([1.6 * costs[0] / costs[-1]] * 3, rel=0.02)


def test_the_rate_is_the_best_of_each_budget(tmp_path):
    runs = fabricated(tmp_path, sparsity_law.experiment(), (1.0,) * 4, seeds=1)
    (curve,) = measures.best_curves(results.select(runs, arm=verdict.name(8))).values()
    np.testing.assert_allclose(curve.loss_N, 4.0 - 0.3 * np.log(np.arange(10, 110, 10)))
    np.testing.assert_array_equal(curve.tokens_N, 1024.0 * np.arange(10, 110, 10))


@pytest.mark.parametrize(
    ("savings", "holds", "words"),
    [
        ((1.0, 1.3, 1.6, 2.0), True, "step by step"),
        ((1.0, 1.3, 1.0, 2.0), False, "do not always need fewer"),
    ],
)
def test_sparsity_is_judged_step_by_step(tmp_path, savings, holds, words):
    headline, found = verdict.judge(fabricated(tmp_path, sparsity_law.experiment(), savings))
    assert words in headline
    assert all(one.holds for one in found[:3]) is holds
    assert "Kimi K2 says 1.69" in found[3].question


@pytest.mark.parametrize(
    ("savings", "words"),
    [((1.0, 3.0, 9.0), "at every step"), ((1.0, 3.0, 3.01), "do not always pay")],
)
def test_heads_are_judged_by_loss_and_by_flops(tmp_path, savings, words):
    headline, found = heads_verdict.judge(fabricated(tmp_path, head_count.experiment(), savings))
    assert words in headline
    assert [one.holds for one in found[:2]] == [True, True]  # lower at equal tokens in either case


def test_twice_the_heads_of_kimi_k2_cost_what_was_published():
    one = presets.kimi_k2_1t_a32b()
    two = dataclasses.replace(one, num_heads=128)
    ratio = heads_verdict.inference_flops(two) / heads_verdict.inference_flops(one)
    assert ratio == pytest.approx(1.83, abs=0.05)


def test_lines_are_drawn_for_each_arm(tmp_path):
    runs = fabricated(tmp_path, head_count.experiment(), (1.0, 1.1, 1.2), seeds=1)
    (panel,) = picture.LossOfFlops().draw(runs, canvas.look(runs)).figure.axes
    assert len(panel.lines) == 3
