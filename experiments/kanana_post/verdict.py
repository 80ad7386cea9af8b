"""Did each stage of kanana_post do what it is for, and more than a control of as many steps?"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from kanana_jax.report import claims, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.reliability import Reliability
from kanana_jax.report.results import Run
from kanana_jax.rollouts import transcripts

VALID, RIGHT_ORDER, GAIN = 0.98, 0.9, 0.2
MARGIN = 0.05  # of accuracy that calibration may cost
TOOLS, STYLE, SUMS = (f"heldout_success_{name}" for name in ("products", "small_talk", "chain_sum"))
ECE = "heldout_ece_stated"
_SHOWN = (
    *("bpb_english", "bpb_korean", "success_products", "success_small_talk", "success_chain_sum"),
    *("valid_turns", "tool_call_rate", "answer_bytes", "accuracy", "win_rate"),
    *("answer_accuracy", "ece_stated"),
)


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""

    def of(stage: str, key: str) -> dict[int, float]:
        return {run.seed: run.value(key) for run in results.select(runs, arm=stage)}

    def least(stage: str, value: float) -> dict[int, float]:
        return dict.fromkeys(of(stage, "heldout_success"), value)

    found = [
        _above(
            f"After sft, are more than {VALID:.0%} of the turns valid?",
            of("sft", "heldout_valid_turns"),
            VALID,
        ),
        claims.rises(
            "Do sums come out right more often with reasoning than without?",
            of("thinking", SUMS),
            of("sft", SUMS),
            GAIN,
        ),
        claims.rises(
            f"Does rejection sampling raise the success of tools by {GAIN:g} in two rounds?",
            of("rejection", TOOLS),
            of("sft", TOOLS),
            GAIN,
        ),
        claims.rises(
            "More than as many steps of the same conversations?",
            of("rejection", TOOLS),
            of("more_sft", TOOLS),
        ),
        _above(
            f"Does the reward model order more than {RIGHT_ORDER:.0%} of held-out pairs?",
            of("reward", "heldout_accuracy"),
            RIGHT_ORDER,
        ),
        claims.rises(
            "Does DPO raise the share of greetings in style?",
            of("dpo", STYLE),
            of("rejection", STYLE),
        ),
        claims.rises(
            "More than training on the chosen answers?", of("dpo", STYLE), of("chosen", STYLE)
        ),
        claims.rises(
            "Do answers of online DPO win against those of offline DPO?",
            of("online", "heldout_win_rate"),
            least("online", 0.5),
        ),
        _longer(of("online", "heldout_longer_by")),
        _halved(of("calibration", ECE), of("online", ECE)),
        claims.rises(
            f"Does accuracy fall by less than {MARGIN:g}?",
            of("calibration", "heldout_answer_accuracy"),
            of("online", "heldout_answer_accuracy"),
            -MARGIN,
        ),
    ]
    num_held = sum(claim.holds is True for claim in found)
    num_against = sum(claim.holds is False for claim in found)
    headline = f"{num_held} of {len(found)} claims hold, {num_against} do not."
    return headline, found


def _above(question: str, values: Mapping[int, float], least: float) -> Claim:
    """Whether every seed is above `least`."""
    if not values:
        return Claim(question, None, "Not measured.")
    holds = all(value > least for value in values.values())
    return Claim(question, holds, f"{_listed(values)}.")


def _longer(values: Mapping[int, float]) -> Claim:
    return Claim("By how many bytes are its answers longer?", None, f"{_listed(values)}.")


def _halved(now: Mapping[int, float], was: Mapping[int, float]) -> Claim:
    question = "Does calibration halve the error of stated confidence?"
    seeds = sorted(now.keys() & was.keys())
    if not seeds:
        return Claim(question, None, "Not measured.")
    holds = all(now[seed] <= was[seed] / 2 for seed in seeds)
    details = tuple(f"ECE {was[seed]:.3f} before, {now[seed]:.3f} after" for seed in seeds)
    return Claim(question, holds, "Yes, in every seed." if holds else "Not in every seed.", details)


def _listed(values: Mapping[int, float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values.values()) or "not measured"


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    headline, found = judge(runs)
    first = {run.arm: run for run in reversed(runs)}
    shown = [
        (f"What {arm} says", text)
        for arm, run in reversed(first.items())
        if (text := transcripts.text(run.directory))
    ]
    return stages.write(
        runs,
        about,
        path,
        headline=headline,
        claims_found=found,
        keys=[f"heldout_{name}" for name in _SHOWN],
        pictures=[Reliability(kinds=("stated", "likelihood", "agreement"))],
        sections=shown,
    )
