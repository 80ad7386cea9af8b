"""Executed rejection sampling: of many tries, those that reached the goal are trained on.

    keep  <=>  reward >= threshold, ended by the model,  and its messages are new
    per task at most  ceil(max_kept (1 - pass rate))  of them, one at least

So a task that is always solved gives one example, and one that is rarely solved gives all that
there are. A try that failed for a reason other than the model does not count.
"""

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from kanana_jax.rollouts.episodes import Episode
from kanana_jax.rollouts.store import Collected, Segment


class Kept(NamedTuple):
    episodes: tuple[Episode, ...]
    figures: dict[str, float]


def keep(groups: Sequence[Sequence[Episode]], *, threshold: float, max_kept: int) -> Kept:
    """The tries to keep; each group holds the tries of one task."""
    kept: list[Episode] = []
    graded = [[one for one in group if one.reward is not None] for group in groups]
    rates = []
    for group in graded:
        right = [one for one in group if _reached(one, threshold)]
        if not group:
            continue
        rates.append(len(right) / len(group))
        most = max(1, math.ceil(max_kept * (1 - rates[-1])))
        kept += _distinct(right)[:most]
    return Kept(tuple(kept), _figures(groups, graded, rates, len(kept)))


def collected(one: Episode) -> Collected:
    """An episode as an example to train on."""
    return Collected(
        segments=(Segment(one.ids, one.origins),),
        about={
            "family": one.task.family,
            "prompt": one.task.messages[-1]["content"],
            "messages": list(one.messages),
            "reward": one.reward,
        },
    )


def _reached(one: Episode, threshold: float) -> bool:
    return one.end == "answered" and one.reward is not None and one.reward >= threshold


def _distinct(episodes: Sequence[Episode]) -> list[Episode]:
    """Each text once, shorter ones first."""
    found = {json.dumps(list(one.messages), sort_keys=True): one for one in reversed(episodes)}
    return sorted(found.values(), key=lambda one: (len(one.ids), one.seed))


def _figures(
    groups: Sequence[Sequence[Episode]],
    graded: Sequence[Sequence[Episode]],
    rates: Sequence[float],
    num_kept: int,
) -> dict[str, float]:
    num_tries = sum(map(len, groups))
    with_tools = [one for group in groups for one in group if one.task.tools]
    num_called = sum(one.num_calls > 0 for one in with_tools)
    return {
        "success": sum(rates) / len(rates) if rates else math.nan,
        "kept_share": num_kept / num_tries,
        "tool_call_rate": num_called / len(with_tools) if with_tools else math.nan,
        "failed_share": 1 - sum(map(len, graded)) / num_tries,
        "unsolved_share": sum(rate == 0 for rate in rates) / max(len(rates), 1),
        "always_solved_share": sum(rate == 1 for rate in rates) / max(len(rates), 1),
    }
