"""The verdict on the arms, from their held-out tasks."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.vision_hybrid import settings
from kanana_jax.jobs import curves
from kanana_jax.report import claims, comparison, results
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

READING, GAIN, F1, BLIND = 0.9, 0.15, 0.9, 0.2


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""

    def of(arm: str, key: str) -> dict[int, float]:
        chosen = results.select(runs, arm=arm)
        return {run.seed: run.value(f"heldout_{key}") for run in chosen if not run.diverged}

    hybrid, direct, english = settings.HYBRID, settings.DIRECT, settings.ENGLISH
    found = [
        claims.above(
            f"Does the hybrid read more than {READING:g} of held-out numbers?",
            of(hybrid, "read_direct"),
            READING,
        ),
        claims.rises(
            "Does it read better than the arm that only answers directly?",
            of(hybrid, "read_direct"),
            of(direct, "read_direct"),
        ),
    ]
    for name, words in (("sum", "sums"), ("filter", "sums with exceptions")):
        steps = of(hybrid, f"{name}_think")
        found += [
            claims.rises(
                f"Do steps beat direct answers by {GAIN:g} on {words}, at equal positions?",
                steps,
                of(direct, f"{name}_direct"),
                GAIN,
            ),
            claims.rises(f"And within the one model, on {words}?", steps,
                         of(hybrid, f"{name}_direct"), GAIN),
            claims.above(
                f"Does a blank image earn less than {BLIND:g} on {words}?",
                {seed: -share for seed, share in of(hybrid, f"{name}_blind").items()},
                -BLIND,
                "Less its share",
            ),
        ]  # fmt: skip
    found += [
        claims.above(
            f"Is F1 of wrong totals above {F1:g} after a second look?",
            of(hybrid, "audit_f1_check"),
            F1,
        ),
        claims.rises(
            "Is it higher after the second look than before?",
            of(hybrid, "audit_f1_check"),
            of(hybrid, "audit_f1_first"),
        ),
        claims.rises(
            "Is it higher after the second look than answered directly?",
            of(hybrid, "audit_f1_check"),
            of(hybrid, "audit_f1_direct"),
        ),
        claims.rises(
            "Are Korean exceptions met better with Korean steps than with English ones?",
            of(hybrid, "filter_think_ko"),
            of(english, "filter_think_ko"),
        ),
    ]
    if any(run.steps < settings.LEAST_STEPS for run in runs):
        words = "This run tests the path; it is too short to claim anything."
        return words, [Claim(one.question, None, "Not judged: too few steps.") for one in found]
    return claims.counted(found), found


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    return comparison.write(runs, about, path, curves=curves.TRAINING, verdict=judge(runs))
