"""What a sweep shows about QK-Clip, computed from its runs.

At each learning rate, with every seed:

    blew up    an unclipped Muon arm's max logit passes GROWTH x tau
    bounded    the clipped arm's peak < PEAK x tau and the mean of its last tenth < TAIL x tau
    cost       clipped held-out loss - each unclipped Muon arm's, paired (report.pairs)

The clip held where Muon blew up if it was bounded there and is not worse than any unclipped Muon
arm. Arms are also set against each other around their own best rates (`rises`). No outcome is
assumed: `prose` has words for success, failure, a tie, a sweep in which nothing blew up, and too
few seeds to tell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.muon_stress import arms, prose, rises
from experiments.muon_stress.outcomes import GROWTH, PEAK, TAIL, RateOutcome, blew_up, outcome
from kanana_jax.jobs import curves
from kanana_jax.report import claims, pairs, results, statistics, tables
from kanana_jax.report.claims import Claim
from kanana_jax.report.pairs import Best
from kanana_jax.report.results import Run
from kanana_jax.report.tables import Cell


@dataclass(frozen=True)
class Verdict:
    headline: str
    claims: tuple[Claim, ...]
    outcomes: dict[str, tuple[RateOutcome, ...]]  # by clipped arm

    def text(self) -> str:
        """The verdict for a terminal."""
        return claims.text(self.headline, self.claims)


def judge(runs: Sequence[Run]) -> Verdict:
    """Reads the verdict off the runs of a sweep."""
    if not runs:
        raise ValueError("a verdict needs at least one finished run, got none.")
    cells = tables.summarize(runs)
    references = [cell for cell in cells if arms.is_reference(cell.runs[0])]
    clipped = results.arms(run for run in runs if arms.is_clipped(run))
    outcomes = {
        arm: tuple(outcome(arm, lr, runs) for lr in _rates_of(arm, runs)) for arm in clipped
    }
    found = [_growth_claim(references)]
    for arm in clipped:
        found += [_bound_claim(arm, outcomes[arm]), _cost_claim(arm, outcomes[arm])]
    if not references:
        found += claims.against_first(runs, "rate")
    if len(arms.lrs(runs)) > 1:
        found += _own_rate_claims(runs, clipped)
    found.append(claims.divergence(cells))
    return Verdict(prose.headline(cells, references, outcomes), tuple(found), outcomes)


def _rates_of(arm: str, runs: Sequence[Run]) -> list[float]:
    """The rates at which `arm` or an unclipped Muon arm ran."""
    return arms.lrs([run for run in runs if run.arm == arm or arms.is_reference(run)])


def _growth_claim(references: Sequence[Cell]) -> Claim:
    question = f"Do unclipped Muon arms pass {GROWTH:g} x tau?"
    if not references:
        return Claim(question, None, "No unclipped Muon arm ran.")
    grown = [cell for cell in references if blew_up(cell)]
    details = tuple(f"{cell.words}: peak {curves.worst_peak(cell):.2f} x tau" for cell in grown)
    if details:
        lrs = sorted({arms.lr(cell.runs[0]) for cell in grown})
        return Claim(question, True, f"Yes, in every seed, at {prose.rates(lrs)}.", details)
    answer = f"At no rate in every seed; {prose.largest_peak(references)}."
    return Claim(question, False, answer)


def _bound_claim(arm: str, outcomes: Sequence[RateOutcome]) -> Claim:
    question = (
        f"Does {arm} stay below {PEAK:g} x tau at its peak and below {TAIL:g} x tau over its "
        "last tenth?"
    )
    details = tuple(f"lr {one.lr:g}: {one.words}" for one in outcomes)
    judged = [one for one in outcomes if one.bounded is not None]
    if not judged:
        return Claim(question, None, "Not measured.", details)
    broken = [one.lr for one in judged if not one.bounded]
    if broken:
        return Claim(question, False, f"Not at {prose.rates(broken)}.", details)
    return Claim(question, True, f"Yes, at {prose.rates([one.lr for one in judged])}.", details)


def _cost_claim(arm: str, outcomes: Sequence[RateOutcome]) -> Claim:
    question = f"Is {arm}'s held-out loss as good as every unclipped Muon arm's at the same rate?"
    return claims.compared(question, [(f"lr {one.lr:g}", one.comparison) for one in outcomes])


def _own_rate_claims(runs: Sequence[Run], clipped: Sequence[str]) -> list[Claim]:
    best = pairs.best(runs)
    found = [claims.best_places(best, "rate")]
    for one in best:
        others = [other for other in best if other.arm not in clipped]
        if one.arm not in clipped or not others:
            continue
        found += [
            claims.compared(
                f"At its own best rate, is {one.arm} as good as every other arm at its own?",
                [("", pairs.compare_best(runs, one, other)) for other in others],
            ),
            claims.compared(
                f"At about {rises.STRESS_MULTIPLE:g} times its own best rate, does {one.arm} "
                "lose no more than the other arms at theirs?",
                [("", rises.compare(runs, one, other)) for other in others],
            ),
        ]
    is_muon = {run.arm: arms.is_muon(run) for run in runs}
    is_reference = {run.arm: arms.is_reference(run) for run in runs}
    references = [one for one in best if is_reference[one.arm]]
    return found + [
        _equal_loss_claim(runs, references, other) for other in best if not is_muon[other.arm]
    ]


def _equal_loss_claim(runs: Sequence[Run], references: Sequence[Best], other: Best) -> Claim:
    """Does Muon's growth of logits exceed AdamW's once both have lost equally much?"""
    details, signs, num_seeds = [], set(), math.inf
    for one in references:
        compared = rises.logits_at_equal_rise(runs, one, other)
        if compared is None:
            details.append(f"{one.arm}: {other.arm} nowhere loses as much")
            continue
        rise, ratios = compared
        signs |= {ratio > 1 for ratio in ratios}
        num_seeds = min(num_seeds, len(ratios))
        details.append(
            f"{one.arm}, {rise:.2f} bits per byte above its best: "
            f"{', '.join(f'{ratio:.2f}' for ratio in ratios)} times {other.arm}'s, by seed"
        )
    question = f"At equal loss, do unclipped Muon's logits grow more than {other.arm}'s?"
    answer = {frozenset({True}): "Yes, in every seed.", frozenset({False}): "No, in no seed."}
    is_clear = len(signs) == 1 and num_seeds >= statistics.MIN_SEEDS
    holds = signs == {True} if is_clear else None
    words = answer.get(frozenset(signs), "Not resolved." if signs else "Not measured.")
    return Claim(question, holds, words, tuple(details))
