"""What the runs say about slack against first come, load by load."""

from collections.abc import Sequence

import numpy as np

from kanana_jax.jobs.spoken_load import LISTENERS
from kanana_jax.report import statistics
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

FIRST_COME, SLACK = "first_come", "slack"
TTFA, UNDERRUNS = "ttfa_p95_s", "underruns"
MARGIN_S = 0.01  # nobody notices fewer seconds


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    loads = sorted({run.axes[LISTENERS] for run in runs})
    width = max(run.config["width"] for run in runs)
    sooner = _sooner(runs, [load for load in loads if load > width])
    steady = _steady(runs, loads)
    control = _control(runs, [load for load in loads if load <= width])
    if None in (sooner.holds, steady.holds):
        return "These runs do not tell slack from first come.", [sooner, steady, control]
    first = "By slack listeners hear sooner" if sooner.holds else "Slack is not sooner at all loads"
    then = "wait no more often" if steady.holds else "wait more often at some load"
    return f"{first}, and they {then}.", [sooner, steady, control]


def _sooner(runs: Sequence[Run], loads: Sequence[int]) -> Claim:
    question = "Among more listeners than draw in a turn, does slack lower p95 to first audio?"
    outcomes, details = [], []
    for load in loads:
        first_K, slack_K = (_by_seed(runs, arm, load, TTFA) for arm in (FIRST_COME, SLACK))
        if min(len(first_K), len(slack_K)) < 2:
            continue
        found = statistics.difference_of_seeds(slack_K, first_K)
        outcomes.append(found.outcome(MARGIN_S))
        details.append(
            f"{load} listeners: {1e3 * slack_K.mean():.0f} against {1e3 * first_K.mean():.0f} ms, "
            f"{1e3 * found.value:+.0f} +- {1e3 * found.band:.0f}, {outcomes[-1]}"
        )
    if not outcomes or "not resolved" in outcomes:
        return Claim(question, None, "Not told by these runs.", tuple(details))
    holds = set(outcomes) == {"better"}
    return Claim(question, holds, "At every load." if holds else "Not always.", tuple(details))


def _steady(runs: Sequence[Run], loads: Sequence[int]) -> Claim:
    question = "Do listeners wait for sound no more often by slack?"
    pairs = [
        (load, *(_by_seed(runs, arm, load, UNDERRUNS) for arm in (FIRST_COME, SLACK)))
        for load in loads
    ]
    details = tuple(
        f"{load} listeners: {slack_K.sum():.0f} against {first_K.sum():.0f} underruns"
        for load, first_K, slack_K in pairs
    )
    if not all(len(first_K) and len(first_K) == len(slack_K) for _, first_K, slack_K in pairs):
        return Claim(question, None, "Not run for both.", details)
    holds = all(slack_K.sum() <= first_K.sum() for _, first_K, slack_K in pairs)
    return Claim(question, holds, "At no load more." if holds else "More at some.", details)


def _control(runs: Sequence[Run], loads: Sequence[int]) -> Claim:
    question = "Control: with room for all in a turn, is there nothing to choose?"
    pairs = [[_by_seed(runs, arm, load, TTFA) for arm in (FIRST_COME, SLACK)] for load in loads]
    if not pairs or not all(len(one_K) for pair in pairs for one_K in pair):
        return Claim(question, None, "No load was so small, or not for both.")
    holds = all(np.array_equal(first_K, slack_K) for first_K, slack_K in pairs)
    return Claim(question, holds, "Equal to the last bit." if holds else "Not equal.")


def _by_seed(runs: Sequence[Run], arm: str, load: int, key: str) -> np.ndarray:
    chosen = [one for one in runs if one.arm == arm and one.axes[LISTENERS] == load]
    return np.array([one.value(key) for one in sorted(chosen, key=lambda one: one.seed)])
