"""What cuts lose and teachers win back, computed from the runs.

recovered  (L_cut - L) / (L_cut - L_base)        L: held-out loss
"""

import math
from collections.abc import Sequence

from experiments import distill_small
from kanana_jax.report import claims, pairs, results
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

BASE, CUT, STUDENT, NEW, SCRATCH = "base", "cut", "student", "new", "scratch"  # stages
# What is cut from the base, how much of it is left, and by which score experts are chosen.
CUTS = {
    "layers": ("num_layers", 0.75, "reap"),
    "hidden": ("hidden_size", 0.75, "reap"),
    "heads": ("num_heads", 0.75, "reap"),
    "dense_width": ("intermediate_size", 0.75, "reap"),
    "expert_width": ("moe_intermediate_size", 0.75, "reap"),
    "kv_rank": ("kv_lora_rank", 0.75, "reap"),
    "q_rank": ("q_lora_rank", 0.75, "reap"),
    "shared": ("num_shared_experts", 0.5, "reap"),
    "reap": ("num_experts", 0.5, "reap"),
    "frequency": ("num_experts", 0.5, "frequency"),
    "random": ("num_experts", 0.5, "random"),
}
HALF = 0.5  # of what was lost


def cut_of(name: str) -> str:
    """The stage that measures a cut."""
    return f"without_{name}" if name not in ("reap", "frequency", "random") else f"experts_{name}"


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""

    def of(arm: str) -> list[Run]:
        return results.select(runs, arm=arm)

    students = {arm.name: of(f"{STUDENT}: {arm.name}") for arm in distill_small.ARMS}
    taught = students[distill_small.WHOLE]
    published = claims.better(
        "Is held-out loss lower after pruning and distillation than from scratch with ten times "
        "the tokens?",
        pairs.compare(taught, of(SCRATCH)),
    )
    start = claims.better(
        "Is what is left of the base a better start than a new model with the same teacher?",
        pairs.compare(taught, of(NEW)),
    )
    more = [
        claims.better(
            f"Does {name} win back more than the {distill_small.TEXT}?",
            pairs.compare(students[name], students[distill_small.TEXT]),
        )
        for name in students
        if name != distill_small.TEXT
    ]
    shares = [
        claims.above(
            f"Does {name} win back more than {HALF:g} of what the cut lost?",
            recovered(runs, name),
            HALF,
            "The share",
        )
        for name in students
    ]
    scores = [
        claims.better(
            f"Do experts that REAP keeps leave a lower loss than those by {other}?",
            pairs.compare(of(cut_of("reap")), of(cut_of(other))),
        )
        for other in ("frequency", "random")
    ]
    words = {
        True: "Pruning and distillation beat scratch with a tenth of its tokens.",
        False: "Scratch with ten times the tokens is as good as pruning and distillation.",
        None: "These runs do not tell whether pruning and distillation beat scratch.",
    }
    return words[published.holds], [published, start, *more, *shares, *scores]


def recovered(runs: Sequence[Run], arm: str) -> dict[int, float]:
    """The share of what the cut lost that an arm of students has won back, by seed.

    NaN where the cut lost nothing.
    """

    def losses(name: str) -> dict[int, float]:
        return {run.seed: run.value("heldout_bpb") for run in results.select(runs, arm=name)}

    base, cut = losses(BASE), losses(CUT)
    return {
        seed: (cut[seed] - loss) / (cut[seed] - base[seed]) if cut[seed] > base[seed] else math.nan
        for seed, loss in losses(f"{STUDENT}: {arm}").items()
        if seed in base and seed in cut
    }
