"""The range of rates that each arm stands, against no stabiliser, and the loss at its best rate.

    stands    the seed's loss at a rate is at most TOLERANCE above that of its own best rate, and it
              did not diverge
    range     up to the highest rate that it stands: between rates the loss is taken as linear in
              ln rate, and a diverged neighbour ends the range at the last rate that it stood

Differences are in octaves, paired by seed. If the range without a stabiliser goes on beyond the
highest rate, its end was not found, and nothing is judged by it.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kanana_jax.jobs import curves
from kanana_jax.report import claims, pairs, results, tables
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

NONE, RATE = "none", "optimizer.lr"
TOLERANCE = 0.1  # bits per byte


class Range(NamedTuple):
    highest: float  # rate that an arm stands
    is_open: bool  # it stood the highest rate that was tried


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    arms = [arm for arm in results.arms(runs) if arm != NONE]
    without = ranges(results.select(runs, arm=NONE))
    best = {one.arm: one for one in pairs.best(runs)}
    if not without or not arms:
        return "The arm without a stabiliser did not run beside another.", []
    longer = {arm: _longer(arm, ranges(results.select(runs, arm=arm)), without) for arm in arms}
    found = [*longer.values(), claims.best_places(list(best.values()), "rate")]
    found += claims.best_against_first(runs, list(best.values()), "rate")
    held = [arm for arm, one in longer.items() if one.holds]
    words = (
        f"Higher rates than without a stabiliser are stood by {claims.listed(held)}."
        if held
        else "No stabiliser is shown to stand higher rates than none."
    )
    return words, [*found, _logits(runs), claims.divergence(tables.summarize(runs))]


def ranges(runs: Sequence[Run]) -> dict[int, Range]:
    """The ranges of one arm, by seed."""
    by_seed: dict[int, dict[float, float]] = {}
    for run in runs:
        loss = math.inf if run.diverged else run.value("heldout_bpb")
        by_seed.setdefault(run.seed, {})[run.axis(RATE)] = loss if loss == loss else math.inf
    found = {seed: _range(losses) for seed, losses in by_seed.items()}
    return {seed: one for seed, one in found.items() if one is not None}


def _range(losses: Mapping[float, float]) -> Range | None:
    """None where no run ended well."""
    best = min(losses, key=losses.__getitem__)
    most = losses[best] + TOLERANCE
    if math.isinf(most):
        return None
    above = sorted(rate for rate in losses if rate >= best)
    for low, high in itertools.pairwise(above):
        if losses[high] <= most:
            continue
        if math.isinf(losses[high]):
            return Range(low, False)
        share = (most - losses[low]) / (losses[high] - losses[low])
        return Range(low * (high / low) ** share, False)
    return Range(above[-1], True)


def _longer(arm: str, ours: Mapping[int, Range], without: Mapping[int, Range]) -> Claim:
    question = f"Does {arm} stand higher rates than no stabiliser?"
    octaves = {
        seed: math.log2(ours[seed].highest / without[seed].highest)
        for seed in sorted(ours.keys() & without.keys())
    }
    found = claims.above(question, octaves, 0.0, noun="The gain in octaves")
    details = tuple(
        f"seed {seed}: up to {_words(ours[seed])} against {_words(without[seed])}"
        for seed in octaves
    )
    holds = found.holds
    if any(without[seed].is_open for seed in octaves):
        holds = None  # the end of its range was not found
    return Claim(question, holds, found.answer, details)


def _words(one: Range) -> str:
    return f"{one.highest:.3g}{' or more' if one.is_open else ''}"


def _logits(runs: Sequence[Run]) -> Claim:
    details = tuple(
        f"{cell.words}: {max(map(curves.peak_max_logit, cell.runs)):.1f}"
        for cell in tables.summarize(runs)
    )
    return Claim("How large do attention logits get?", None, "The worst seed's peak.", details)
