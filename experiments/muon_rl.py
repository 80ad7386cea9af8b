"""Do Muon and MuonClip train a policy as well as AdamW does, at updates of one size?

A base that reads sums of 2 to 5 digits goes on under three optimizers. Muon's updates are scaled to
the size of AdamW's, so a rate means the same change of the weights for all of them. Each arm runs
at three rates and is judged at its own best. A fourth arm clips the query and key weights at a
tenth of the usual threshold. It shows what QK-Clip, which no gradient asked for, does to a policy.
"""

from collections.abc import Sequence

from experiments.rl_logic import jobs, settings
from kanana_jax.jobs import pipeline, sweep
from kanana_jax.jobs.sweep import Arm, Axis
from kanana_jax.report import claims, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

ADAMW, MUON, MUONCLIP, CLIPPED = "AdamW", "Muon", "MuonClip", "MuonClip, low tau"
LOW_TAU = 10.0
NUM_ROUNDS = 24
_PASS = "heldout_longer_pass@1"
_SHOWN = ("heldout_longer_pass@1", "heldout_longer_reasoned", "round_kl_to_start")

_ARMS = (
    Arm(
        name=ADAMW,
        edits=("optimizer.name=adamw",),
        axes=(Axis("optimizer.lr", (0.0003,)),),  # it is best at lower rates than the others
    ),
    Arm(name=MUON, edits=("optimizer.name=muon",)),
    Arm(name=MUONCLIP, edits=("optimizer.name=muonclip",)),
    Arm(name=CLIPPED, edits=("optimizer.name=muonclip", f"optimizer.tau={LOW_TAU:g}")),
)


def judge(runs: Sequence[Run]) -> list[Claim]:
    """The claims, whatever came out."""

    def best(name: str) -> dict[int, float]:
        """By seed, at the rate whose mean over the seeds is the highest."""
        at_rates = [
            results.select(runs, arm=arm)
            for arm in results.arms(runs)
            if arm.startswith(f"rl: {name}, lr ")
        ]
        if not at_rates:
            return {}
        top = max(at_rates, key=lambda some: sum(run.value(_PASS) for run in some) / len(some))
        return {run.seed: run.value(_PASS) for run in top}

    base = {run.seed: run.value(_PASS) for run in results.select(runs, arm="base")}
    found = [
        claims.rises(f"Does the reward teach under {name}?", best(name), base)
        for name in (ADAMW, MUON, MUONCLIP)
    ]
    found += [
        claims.rises("Is MuonClip ahead of AdamW?", best(MUONCLIP), best(ADAMW)),
        claims.rises("Is Muon ahead of AdamW?", best(MUON), best(ADAMW)),
        claims.rises("Does a low threshold of QK-Clip cost reward?", best(MUONCLIP), best(CLIPPED)),
    ]
    return found


_READING, _REWARDED = jobs.of_texts(settings.world.TEXTS, {"longer": jobs.SETS["longer"]})
run = pipeline.of(
    {"base": sweep.of(_READING), "rl": sweep.of(_REWARDED)}, stages.judged(judge, _SHOWN)
)


def experiment() -> pipeline.Pipeline:
    rates = Axis("optimizer.lr", (0.001, 0.003, 0.009))
    return pipeline.Pipeline(
        name="muon_rl",
        question="Does MuonClip train a policy as well as AdamW?",
        stages=(
            settings.base("base"),
            settings.rewarded("rl", _ARMS, num_rounds=NUM_ROUNDS, axes=(rates,)),
        ),
    )
