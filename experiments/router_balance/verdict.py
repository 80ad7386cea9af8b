"""Whether quantile balancing balances better than each arm of the sign rule, at equal loss.

    balanced   its MaxVio is at most HALF of the sign rule's: the difference MaxVio - HALF x MaxVio
               of the other, seed by seed, lies below 0 with its whole band
    equal      its held-out loss is equal or better, paired by seed and sequence (report.pairs)

It holds against an arm where both are true. A band that contains 0 decides nothing, and neither do
fewer than three seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.router_balance import measures
from kanana_jax.report import claims, pairs, results, statistics, tables
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

HALF = 0.5


@dataclass(frozen=True)
class Versus:
    """Quantile balancing against one arm of the sign rule."""

    arm: str
    balance: Claim
    loss: Claim


@dataclass(frozen=True)
class Verdict:
    headline: str
    claims: tuple[Claim, ...]

    def text(self) -> str:
        """The verdict for a terminal."""
        return claims.text(self.headline, self.claims)


def judge(runs: Sequence[Run]) -> Verdict:
    """Reads the verdict off the runs of one place."""
    if not runs:
        raise ValueError("a verdict needs at least one finished run, got none")
    quantile = [run for run in runs if measures.is_quantile(run)]
    signs = [run for run in runs if measures.is_sign(run)]
    controls = [run for run in runs if not measures.is_quantile(run) and not measures.is_sign(run)]
    found = [
        _versus(quantile, results.select(signs, arm=arm)) for arm in results.arms(signs) if quantile
    ]
    judged = [claim for one in found for claim in (one.balance, one.loss)]
    judged += [
        _fewer(results.select(signs, arm=arm), controls, 1.0, f"Does {arm} balance at all?")
        for arm in results.arms(signs)
        if controls
    ]
    cells = tables.summarize(runs)
    judged += [_floor_claim(cells), claims.divergence(cells)]
    return Verdict(headline(found, cells), tuple(judged))


def headline(found: Sequence[Versus], cells: Sequence[tables.Cell]) -> str:
    """A sentence for each arm of the sign rule."""
    if not found:
        return "Quantile balancing and the sign rule did not both run, so neither can be judged."
    sentences = [_sentence(one) for one in found] + [claims.few_seeds(cells)]
    return " ".join(sentences).strip()


def _sentence(one: Versus) -> str:
    judged = [
        (one.balance.holds, "its MaxVio is at most half", "its MaxVio is more than half"),
        (one.loss.holds, "its held-out loss is as good", "its held-out loss is worse"),
    ]
    failed = [words for holds, _, words in judged if holds is False]
    unknown = [words for holds, words, _ in judged if holds is None]
    if failed:
        return f"Quantile balancing does not hold against {one.arm}: {claims.listed(failed)}."
    if unknown:
        return f"Against {one.arm} it is not decided whether {claims.listed(unknown)}."
    held = claims.listed([words for _, words, _ in judged])
    return f"Quantile balancing holds against {one.arm}: {held}."


def _versus(quantile: Sequence[Run], sign: Sequence[Run]) -> Versus:
    arm = sign[0].arm
    question = f"Is quantile balancing's MaxVio at most half of that of {arm}?"
    loss = claims.compared(
        f"Is its held-out loss as good as that of {arm}?", [("", pairs.compare(quantile, sign))]
    )
    return Versus(arm, _fewer(quantile, sign, HALF, question), loss)


def _fewer(runs: Sequence[Run], others: Sequence[Run], share: float, question: str) -> Claim:
    """Whether MaxVio in the mean of layers is at most a share of the others'."""
    if any(run.diverged for run in (*runs, *others)):
        return Claim(question, None, "Not measured: a run diverged.")
    mean, other = _mean(runs), _mean(others)
    numbers = f"{mean.mean:.3f} against {other.mean:.3f}, {mean.mean / other.mean:.2f} times"
    details = (f"worst layer: {mean.worst:.3f} against {other.worst:.3f}",)
    by_seed = {run.seed: measures.max_vio(run).mean for run in runs}
    of_others = {run.seed: measures.max_vio(run).mean for run in others}
    seeds = sorted(by_seed.keys() & of_others.keys())
    if len(seeds) < statistics.MIN_SEEDS:
        few = claims.seeds(len(seeds))
        answer = f"{numbers}, in {few}; a verdict takes {statistics.MIN_SEEDS}."
        return Claim(question, None, answer, details)
    excess = statistics.difference_of_seeds(
        np.array([by_seed[seed] for seed in seeds]),
        share * np.array([of_others[seed] for seed in seeds]),
    )
    outcome = excess.outcome(0.0)
    answers = {"better": ("Yes", True), "worse": ("No", False)}
    word, holds = answers.get(outcome, ("Not resolved", None))
    scaled = "the other's" if share == 1 else f"{share:g} times the other's"
    band = f"less {scaled}: {excess.value:+.3f} +- {excess.band:.3f}"
    return Claim(question, holds, f"{word}: {numbers}.", (band, *details))


def _floor_claim(cells: Sequence[tables.Cell]) -> Claim:
    """The MaxVio that chance would leave, and every arm's relative to it."""
    chance = measures.floor(cells[0].runs[0])
    details = tuple(
        f"{cell.words}: {mean.mean:.3f}, {mean.mean / chance.mean:.1f} times it; worst layer "
        f"{mean.worst:.3f}, {mean.worst / chance.worst:.1f} times"
        for cell in cells
        for mean in [_mean(cell.runs)]
    )
    answer = f"{chance.mean:.3f} in the mean of layers, {chance.worst:.3f} in the worst."
    question = "What MaxVio would tokens have that choose all experts alike, at random?"
    return Claim(question, None, answer, details)


def _mean(runs: Sequence[Run]) -> measures.MaxVio:
    """The means over seeds."""
    mean, worst = np.mean([measures.max_vio(run) for run in runs], axis=0)
    return measures.MaxVio(float(mean), float(worst))
