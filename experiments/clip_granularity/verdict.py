"""Loss and reach of a clip by layer and by head, and whether heads stop passing tau.

    over tau   the share of (head, step) whose largest logit passes tau, before the step's clip
    scaled     the share of (head, step) that the clip scales: by layer, those that passed and more
    goes on    in the last fifth of the steps more than LATE of (head, step) are over tau

Kimi K2 saw 12.7 % of its heads pass tau once or more in the first 70,000 steps, and none later
(arXiv:2507.20534, App. D).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from kanana_jax.jobs import curves
from kanana_jax.report import claims, pairs, results, tables
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Place, Run

NONE, LAYER, HEAD = "no clip", "clip by layer", "clip by head"
LATE = 0.01


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    places = results.places(runs)
    loss = [_better(runs, place) for place in places]
    reach = [_reach(runs, place) for place in places]
    cost = [_as_good(runs, arm) for arm in (LAYER, HEAD)]
    goes_on = [_goes_on(runs, place, arm) for arm in (HEAD, LAYER, NONE) for place in places]
    headline = [
        _sentence("Has a clip by head a lower loss than one by layer?", loss),
        _sentence("Does it scale fewer heads?", reach),
        _sentence("Do heads go on passing tau under it?", goes_on[: len(places)]),
    ]
    found = [*loss, *reach, *cost, *goes_on, claims.divergence(tables.summarize(runs))]
    return ". ".join(headline) + ".", found


def _sentence(question: str, found: Sequence[Claim]) -> str:
    words = {True: "yes", False: "no", None: "not resolved"}
    counts = {words[held]: sum(one.holds is held for one in found) for held in words}
    return f"{question} " + ", ".join(
        f"{word} at {count} of {len(found)} rates" for word, count in counts.items() if count
    )


def _at(runs: Sequence[Run], place: Place, arm: str) -> list[Run]:
    return results.select(runs, arm=arm, place=place)


def _where(place: Place) -> str:
    return f" at {results.place_words(place)}" if place else ""


def _better(runs: Sequence[Run], place: Place) -> Claim:
    question = f"Is the held-out loss of a clip by head better than by layer{_where(place)}?"
    return claims.better(question, pairs.compare(_at(runs, place, HEAD), _at(runs, place, LAYER)))


def _as_good(runs: Sequence[Run], arm: str) -> Claim:
    compared = [
        (results.place_words(place), pairs.compare(_at(runs, place, arm), _at(runs, place, NONE)))
        for place in results.places(runs)
    ]
    return claims.compared(f"Is the held-out loss of {arm} as good as without a clip?", compared)


def _reach(runs: Sequence[Run], place: Place) -> Claim:
    question = f"Does a clip by head scale fewer heads than by layer{_where(place)}?"
    by_head, by_layer = (_by_seed(_at(runs, place, arm), scaled) for arm in (HEAD, LAYER))
    return claims.lower(question, by_head, by_layer, digits=4)


def _goes_on(runs: Sequence[Run], place: Place, arm: str) -> Claim:
    question = f"With {arm}, do heads go on passing tau{_where(place)}?"
    here = _at(runs, place, arm)
    found = claims.above(question, _by_seed(here, late), LATE, noun="The share in the last fifth")
    details = [f"{late(run):.3f}, and {peak(run):.3f} in the fullest fifth" for run in here]
    return Claim(question, found.holds, found.answer, tuple(details))


def _by_seed(runs: Sequence[Run], value: Callable[[Run], float]) -> dict[int, float]:
    return {run.seed: value(run) for run in runs if not run.diverged}


def over_tau(run: Run) -> np.ndarray:
    """The share of heads over tau at every step; empty where no logits were recorded."""
    logits_NLH, tau = run.series("max_logits").values_N, curves.tau(run)
    if tau is None or logits_NLH.ndim < 3:
        return np.zeros(0)
    return (logits_NLH > tau).mean(axis=(1, 2))


def scaled(run: Run) -> float:
    """The share of heads and steps that were scaled; NaN where that was not recorded."""
    clips_N, logits_NLH = run.series("clip_count").values_N, run.series("max_logits").values_N
    if not clips_N.size or logits_NLH.ndim < 3:
        return math.nan
    return float(clips_N.mean()) / math.prod(logits_NLH.shape[1:])


def late(run: Run) -> float:
    """The share over tau in the last fifth of the steps."""
    fifths = _fifths(run)
    return fifths[-1] if fifths else math.nan


def peak(run: Run) -> float:
    """The share over tau in the fifth that has most."""
    return max(_fifths(run), default=math.nan)


def _fifths(run: Run) -> list[float]:
    parts = np.array_split(over_tau(run), 5)
    return [float(part.mean()) for part in parts if part.size]
