"""Did the agent learn to reach goals, and was it the filters that taught it?"""

from collections.abc import Sequence

from experiments.agentic import jobs
from kanana_jax.report import claims, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

GAIN = 0.2
KNOWN, NEW = (f"heldout_{name}_pass@1" for name in ("known", "new"))
_PARTS = ("state", "read", "answer", "drawn_tokens", "over_length")
_SHOWN = (KNOWN, NEW, *(f"heldout_known_{name}" for name in _PARTS))


def arm(name: str) -> str:
    """What a report calls an arm of the stage of conversations."""
    return f"sft: {name}"


def judge(runs: Sequence[Run]) -> list[Claim]:
    """The claims, whatever came out."""

    def of(name: str, key: str) -> dict[int, float]:
        return {run.seed: run.value(key) for run in results.select(runs, arm=name)}

    kept, unfiltered = map(arm, (jobs.KEPT, jobs.UNFILTERED))
    return [
        claims.rises(
            f"Does the share of held-out goals that are reached rise by {GAIN:g} or more?",
            of(kept, KNOWN),
            of("base", KNOWN),
            GAIN,
        ),
        claims.rises(
            "By more than with as many conversations that no rule has looked at?",
            of(kept, KNOWN),
            of(unfiltered, KNOWN),
        ),
        claims.rises(
            "Does it rise in a domain that no conversation was of, too?",
            of(kept, NEW),
            of("base", NEW),
        ),
    ]


write = stages.judged(judge, _SHOWN)
