"""Did each stage of kanana_post do its job, and more than a control with as many steps?"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.kanana_post.size import CHAT, Size
from kanana_jax.report import claims, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.curves import Curve, Row
from kanana_jax.report.reliability import Reliability
from kanana_jax.report.results import Run
from kanana_jax.rollouts import transcripts

VALID, RIGHT_ORDER, GAIN = 0.98, 0.9, 0.2
MARGIN = 0.05  # of accuracy that calibration may cost
ECE = "heldout_ece_stated"
_SCORES = "score", "reward"  # of a round: the judge's, and the rubric's whoever judges
_ROUNDS = Curve(
    name="rounds",
    title="What the judge sees, and what the rubric sees",
    reading="Mean scores of the samples of every round. Where the judge's rises and the rubric's "
    "does not, the judge is fooled.",
    rows=(
        Row(key="round_score", label="the judge's score", is_marked=True),
        Row(key="round_reward", label="the rubric's", is_marked=True),
    ),
)


def writer(size: Size) -> Callable[[Sequence[Run], Mapping[str, Any], Path], str]:
    return functools.partial(write, practised=names(size.practised), sums=names((size.sums,)))


def names(families: Sequence[str]) -> tuple[str, ...]:
    """Names of families, without the levels that are drawn."""
    return tuple(one.partition("@")[0] for one in families)


def judge(
    runs: Sequence[Run], practised: Sequence[str], sums: Sequence[str]
) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out; `practised` and `sums` name families."""
    tools, style = _success(*practised), _success(CHAT)

    def of(stage: str, *keys: str) -> dict[int, float]:
        return {
            run.seed: sum(map(run.value, keys)) / len(keys)
            for run in results.select(runs, arm=stage)
        }

    found = [
        _above(
            f"After sft, are more than {VALID:.0%} of the turns valid?",
            of("sft", "heldout_valid_turns"),
            VALID,
        ),
        claims.rises(
            "Do sums come out right more often with reasoning than without?",
            of("thinking", *_success(*sums)),
            of("sft", *_success(*sums)),
            GAIN,
        ),
        claims.rises(
            f"Does rejection sampling raise the success of tools by {GAIN:g}?",
            of("rejection", *tools),
            of("sft", *tools),
            GAIN,
        ),
        claims.rises(
            "More than as many steps of the same conversations?",
            of("rejection", *tools),
            of("more_sft", *tools),
        ),
        _above(
            f"Does the reward model order more than {RIGHT_ORDER:.0%} of held-out pairs?",
            of("reward", "heldout_accuracy"),
            RIGHT_ORDER,
        ),
        claims.rises(
            "Does DPO raise the share of greetings in style?",
            of("dpo", *style),
            of("rejection", *style),
        ),
        claims.rises(
            "More than training on the chosen answers?", of("dpo", *style), of("chosen", *style)
        ),
        claims.above(
            "Do answers of online DPO win against those of offline DPO?",
            of("online", "heldout_win_rate"),
            0.5,
            "The share of wins",
        ),
        claims.rises(
            "More often than with the reward model as the judge?",
            of("online", "heldout_win_rate"),
            of("online_by_model", "heldout_win_rate"),
        ),
        _optimised(results.select(runs, arm="online_by_model")),
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


def _optimised(runs: Sequence[Run]) -> Claim:
    """What the judge's own score and the rubric's do over the rounds."""
    question = "Where the reward model judges, what becomes of its score and of the rubric's?"
    rounds = [[run.series(f"round_{name}").values_N for name in _SCORES] for run in runs]
    details = tuple(
        f"seed {run.seed}: its own {own[0]:.2f} to {own[-1]:.2f}, "
        f"the rubric's {rubric[0]:.2f} to {rubric[-1]:.2f}"
        for run, (own, rubric) in zip(runs, rounds, strict=True)
        if len(own) and len(rubric)
    )
    answer = "From the first round to the last:" if details else "Not measured."
    return Claim(question, None, answer, details)


def _longer(values: Mapping[int, float]) -> Claim:
    return Claim("By how many bytes are its answers longer?", None, f"{_listed(values)}.")


def _halved(now: Mapping[int, float], was: Mapping[int, float]) -> Claim:
    gains = {seed: was[seed] / 2 - now[seed] for seed in sorted(now.keys() & was.keys())}
    found = claims.above(
        "Does calibration halve the error of stated confidence?",
        gains,
        0.0,
        "Half the error before less the error after",
    )
    details = tuple(f"ECE {was[seed]:.3f} before, {now[seed]:.3f} after" for seed in gains)
    return dataclasses.replace(found, details=details)


def _listed(values: Mapping[int, float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values.values()) or "not measured"


def _success(*families: str) -> list[str]:
    return [f"heldout_success_{one}" for one in families]


def _shown(families: Sequence[str]) -> list[str]:
    return [
        *("heldout_bpb_english", "heldout_bpb_korean", *_success(*families)),
        *("heldout_valid_turns", "heldout_tool_call_rate", "heldout_answer_bytes"),
        *("heldout_accuracy", "heldout_win_rate", "heldout_answer_accuracy", ECE),
    ]


def write(
    runs: Sequence[Run],
    about: Mapping[str, Any],
    path: str | os.PathLike,
    *,
    practised: Sequence[str],
    sums: Sequence[str],
) -> str:
    headline, found = judge(runs, practised, sums)
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
        keys=_shown((*practised, CHAT, *sums)),
        pictures=[_ROUNDS, Reliability(kinds=("stated", "likelihood", "agreement"))],
        sections=shown,
    )
