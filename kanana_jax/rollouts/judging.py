"""Pairs the best of several answers to one prompt with the worst.

Pairs are as `kanana_jax.data.preferences` has them: a segment with the chosen answer and one with
the rejected. Answers that the judge cannot tell apart make no pair, nor do two that are too long
for one row.
"""

import math
from collections.abc import Sequence

from kanana_jax.rollouts.episodes import Episode
from kanana_jax.rollouts.store import Collected, Round, Segment

Scores = Sequence[Sequence[float]]  # of the episodes of each group; NaN: not judged


def pairs(
    groups: Sequence[Sequence[Episode]], scores: Scores, *, min_gap: float, length: int
) -> Round:
    """At most one pair of each group, whose scores differ by more than `min_gap`.

    A row has `length` positions; an episode takes one fewer than it has ids.
    """
    found, lengths = [], []
    for group, of_group in zip(groups, scores, strict=True):
        judged = [
            (score, one)
            for score, one in zip(of_group, group, strict=True)
            if not math.isnan(score)
        ]
        if len(judged) < 2:
            continue
        best = max(judged, key=lambda pair: (pair[0], -pair[1].seed))
        worst = min(judged, key=lambda pair: (pair[0], pair[1].seed))
        taken = len(best[1].ids) + len(worst[1].ids) - 2
        if best[0] - worst[0] > min_gap and taken <= length:
            found.append(_pair(best, worst))
            lengths.append(best[1].num_drawn - worst[1].num_drawn)
    flat = [score for of_group in scores for score in of_group if not math.isnan(score)]
    rewards = [one.reward for group in groups for one in group if one.reward is not None]
    figures = {
        "score": _mean(flat),
        "reward": _mean(rewards),  # of the tasks' own graders, whoever judges
        "paired_share": len(found) / len(groups),
        "longer_by": _mean(lengths),
    }
    return Round(tuple(found), figures)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _pair(best: tuple[float, Episode], worst: tuple[float, Episode]) -> Collected:
    segments = tuple(Segment(one.ids, one.origins) for _, one in (best, worst))
    about = {
        "prompt": best[1].task.messages[-1]["content"],
        "chosen": list(best[1].messages),
        "rejected": list(worst[1].messages),
        "scores": [best[0], worst[0]],
    }
    return Collected(segments=segments, about=about)
