"""Whether FLOPs to a loss fall where more experts share the same work.

Kimi K2 needs 1.69, 1.39 and 1.15 times fewer FLOPs for a loss at a sparsity of 48 than at 8, 16 and
32 (arXiv:2507.20534, sec. 2.3). Sparsity is the number of experts over those of a token.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from experiments.sparsity_law import measures
from kanana_jax.report import claims, results, tables
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

PUBLISHED = {8: 1.69, 16: 1.39, 32: 1.15}  # FLOPs over those at 48


def name(sparsity: int) -> str:
    """An arm's name."""
    return f"sparsity {sparsity}"


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    found = measures.of_arms(runs)
    arms = [arm for arm in results.arms(runs) if arm in found]
    if len(arms) < 2:
        return "Fewer than two sparsities were measured, so nothing is judged.", []
    neighbours = [
        claims.above(
            f"Does a loss take more FLOPs at {denser} than at {sparser}?",
            measures.gains(runs, found, denser, sparser),
            1.0,
            "The ratio",
        )
        for denser, sparser in itertools.pairwise(arms)
    ]
    last = arms[-1]
    whole = [
        claims.above(
            f"How many times the FLOPs of {last} does a loss take at {arm}?{_published(arm, last)}",
            measures.gains(runs, found, arm, last),
            1.0,
            "The ratio",
        )
        for arm in arms[:-1]
    ]
    words = {
        True: "More experts at the same work need fewer FLOPs for a loss, step by step.",
        False: "More experts at the same work do not always need fewer FLOPs for a loss.",
        None: "These runs do not tell whether more experts need fewer FLOPs at every step.",
    }
    found_too = [_speeds(runs, arms), claims.divergence(tables.summarize(runs))]
    return words[claims.all_hold(neighbours)], [*neighbours, *whole, *found_too]


def _published(arm: str, sparsest: str) -> str:
    ratio = PUBLISHED.get(int(arm.rpartition(" ")[2]))
    return f" Kimi K2 says {ratio:g}." if ratio and sparsest == name(48) else ""


def _speeds(runs: Sequence[Run], arms: Sequence[str]) -> Claim:
    """Speeds, which the arithmetic leaves out."""
    details = tuple(
        f"{arm}: {np.mean([run.value('tokens_per_second') for run in here]):,.0f} tokens/s"
        for arm in arms
        if (here := results.select(runs, arm=arm))
    )
    return Claim("How fast were they here?", None, "FLOPs count no memory traffic.", details)
