"""Claims about polynomials late in training: data on which each of them flips."""

import fabricate
import pytest

from experiments import polar_express_late
from experiments.polar_express_late import verdict
from kanana_jax.report import results

RATES = (0.0075, 0.015, 0.03)
EQUAL = {verdict.NEWTON_SCHULZ: {}, verdict.POLAR_EXPRESS: {}, verdict.LONGER: {}}


def fabricated(folder, seeds=3, **changes):
    runs = []
    for arm, given in (EQUAL | changes).items():
        for lr in RATES:
            for seed in range(seeds):
                options = {"bpb": 2.7, "spread": 0.001, "noise": 0.3} | given
                options["bpb"] += 0.1 * (lr != 0.015)
                runs.append(
                    fabricate.run(folder, arm=arm, lr=lr, seed=seed, decay_steps=10, **options)
                )
    return runs


def holds(runs, words, arm=verdict.POLAR_EXPRESS):
    (found,) = [o for o in verdict.judge(runs)[1] if words in o.question and arm in o.question]
    return found.holds


@pytest.mark.parametrize(("noise", "told"), [(0.1, True), (0.5, False)])
def test_noise_late_is_compared(tmp_path, noise, told):
    runs = fabricated(tmp_path, **{verdict.POLAR_EXPRESS: {"noise": noise}})
    assert holds(runs, "less noisy late") is told
    assert holds(runs, "less noisy in the decay") is told
    assert holds(runs, "less noisy late", verdict.LONGER) is None


def test_a_gain_of_the_decay_is_told_from_one_before_it(tmp_path):
    late = fabricated(tmp_path / "late", **{verdict.LONGER: {"bpb": 2.6, "before_decay": 0.1}})
    asked = ("lower before the decay", "better after the decay", "take more off")
    assert [holds(late, words, verdict.LONGER) for words in asked] == [None, True, True]
    early = fabricated(tmp_path / "early", **{verdict.LONGER: {"bpb": 2.6}})
    assert [holds(early, words, verdict.LONGER) for words in asked] == [True, True, None]
    assert f"{verdict.LONGER} against {verdict.NEWTON_SCHULZ}" in verdict.judge(early)[0]


def test_without_newton_schulz_nothing_is_judged(tmp_path):
    runs = results.select(fabricated(tmp_path, seeds=1), arm=verdict.LONGER)
    assert verdict.judge(runs) == (
        "Newton-Schulz and Polar Express did not both run, so neither can be judged.",
        [],
    )


def test_losses_are_measured_on_the_last_constant_step():
    train = polar_express_late.experiment().base.train
    decay = polar_express_late.experiment().base.optimizer.schedule.decay_steps
    assert (train.num_steps - decay) % train.eval_interval_steps == 0
