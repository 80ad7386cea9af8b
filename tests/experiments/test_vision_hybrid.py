"""Claims about the verdict on reasoning over images: for every one, values on which it flips."""

from pathlib import Path

import pytest

from experiments.vision_hybrid import settings, verdict
from kanana_jax.report.results import Run

GOOD = {
    settings.HYBRID: {
        "read_direct": 0.95,
        "sum_direct": 0.5,
        "sum_think": 0.9,
        "sum_blind": 0.02,
        "filter_direct": 0.5,
        "filter_think": 0.9,
        "filter_blind": 0.02,
        "filter_think_ko": 0.9,
        "audit_f1_first": 0.8,
        "audit_f1_direct": 0.8,
        "audit_f1_check": 0.95,
    },
    settings.DIRECT: {"read_direct": 0.9, "sum_direct": 0.6, "filter_direct": 0.6},
    settings.ENGLISH: {"filter_think_ko": 0.7},
}


def _runs(arm="", key="", value=0.0, steps=2000):
    runs = []
    for name, values in GOOD.items():
        for seed in range(3):
            found = values | ({key: value} if name == arm else {})
            named = {f"heldout_{one}": x + 0.001 * seed for one, x in found.items()}
            axes = {"arm": name, "seed": seed}
            made = Run(directory=Path(name), status="ok", steps=steps, axes=axes, values=named)
            runs.append(made)
    return runs


def _held(runs):
    return [one.holds for one in verdict.judge(runs)[1]]


def test_all_claims_hold_on_good_values():
    headline, found = verdict.judge(_runs())
    assert [one.holds for one in found] == [True] * 12
    assert headline == "Of 12 questions 12 are answered by yes, 0 by no."


FLIPS = [
    (settings.HYBRID, "read_direct", 0.85, (0, 1)),
    (settings.DIRECT, "read_direct", 0.96, (1,)),
    (settings.DIRECT, "sum_direct", 0.8, (2,)),
    (settings.HYBRID, "sum_direct", 0.8, (3,)),
    (settings.HYBRID, "sum_blind", 0.3, (4,)),
    (settings.DIRECT, "filter_direct", 0.8, (5,)),
    (settings.HYBRID, "filter_direct", 0.8, (6,)),
    (settings.HYBRID, "filter_blind", 0.3, (7,)),
    (settings.HYBRID, "audit_f1_check", 0.7, (8, 9, 10)),
    (settings.HYBRID, "audit_f1_first", 0.97, (9,)),
    (settings.HYBRID, "audit_f1_direct", 0.97, (10,)),
    (settings.ENGLISH, "filter_think_ko", 0.95, (11,)),
]


@pytest.mark.parametrize(("arm", "key", "value", "flipped"), FLIPS)
def test_each_claim_falls_with_what_it_is_about(arm, key, value, flipped):
    held = _held(_runs(arm, key, value))
    assert [n for n, one in enumerate(held) if one is not True] == [*flipped]
    assert all(held[n] is False for n in flipped)


def test_a_run_that_tests_the_path_claims_nothing():
    headline, found = verdict.judge(_runs(steps=settings.LEAST_STEPS - 1))
    assert "too short to claim anything" in headline
    assert {one.holds for one in found} == {None}
