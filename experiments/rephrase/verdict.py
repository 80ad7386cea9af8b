"""Is the order that of Kimi K2 (arXiv:2507.20534, table 1): raw, one rewrite, many rewrites?"""

import functools
from collections.abc import Callable, Sequence

from experiments.rephrase import settings, wording, world
from kanana_jax.report import claims, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

ACCURACY = "heldout_accuracy"
_SHOWN = (ACCURACY, *(f"{ACCURACY}_{one.name}" for one in wording.RELATIONS))


def judge(runs: Sequence[Run], arms: Sequence[str] = settings.ARMS) -> list[Claim]:
    """The claims, whatever came out."""

    def of(arm: str) -> dict[int, float]:
        return {run.seed: run.value(ACCURACY) for run in results.select(runs, arm=arm)}

    raw, one, many = map(of, arms)
    return [
        claims.rises("Are many rewrites answered from better than one?", many, one),
        claims.rises("Is one rewrite answered from better than the raw text?", one, raw),
        claims.rises("Are many rewrites answered from better than the raw text?", many, raw),
        claims.rises(
            "Is anything learned: are many rewrites above the most frequent answers?",
            many,
            dict.fromkeys(many, world.best_constants()),
        ),
    ]


def writer(arms: Sequence[str]) -> Callable[..., str]:
    """A writer of reports on runs whose arms have these names."""
    return stages.judged(functools.partial(judge, arms=arms), _SHOWN)
