"""Does it steady training when tokens go to the experts that the sampler chose?

Sampler and trainer compute the same model with different kernels, so in bfloat16 some tokens go to
other experts in training. The trainer chooses anew (live), keeps what it chose before the first
update of a round (R2), or takes the sampler's experts (R3). Each runs without a correction of the
difference, with TIS and with IcePop. One more arm has a float32 trainer with the same sampler.
"""

from collections.abc import Sequence

from experiments.rl_logic import jobs, settings, world
from kanana_jax.jobs import pipeline, sweep
from kanana_jax.jobs.sweep import Arm
from kanana_jax.report import claims, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

ROUTINGS = {"live": "live", "R2": "trainer", "R3": "sampler"}
CORRECTIONS = {"": "none", "TIS": "tis", "IcePop": "icepop"}
NUM_ROUNDS = 16
LARGEST_K3 = 1e-4  # of R3
FLOAT32 = "live, float32 trainer"

_PASS, _K3 = "heldout_longer_pass@1", "round_mismatch_k3"
_SHOWN = (
    _PASS,
    "heldout_seen_pass@1",
    _K3,
    "round_mismatch_max",
    "round_route_disagreement",
    "round_kl_to_start",
)


def named(routing: str, correction: str = "") -> str:
    """An arm's name."""
    return ", ".join(word for word in (routing, correction) if word)


_ARMS = (
    *(
        Arm(
            name=named(routing, correction),
            edits=(
                "execution.compute_dtype=bfloat16",
                f"rl.routing={ROUTINGS[routing]}",
                f"rl.correction={CORRECTIONS[correction]}",
            ),
        )
        for routing in ROUTINGS
        for correction in CORRECTIONS
    ),
    Arm(name=FLOAT32, edits=("rl.rollouts.compute_dtype=bfloat16", "rl.routing=live")),
)


def judge(runs: Sequence[Run]) -> list[Claim]:
    """The claims, whatever came out."""

    def of(arm: str, key: str = _PASS) -> dict[int, float]:
        return {run.seed: run.value(key) for run in results.select(runs, arm=f"rl: {arm}")}

    def mean(arm: str, key: str) -> dict[int, float]:
        """Over all rounds."""
        series = {
            run.seed: run.series(key).values_N for run in results.select(runs, arm=f"rl: {arm}")
        }
        return {seed: float(x.mean()) for seed, x in series.items() if x.size}

    replayed, live = mean("R3", _K3), mean("live", _K3)
    return [
        claims.lower("Is the mismatch (K3) smaller with R3 than without?", replayed, live, 6),
        claims.lower(
            f"Is it under {LARGEST_K3:g} with R3?",
            replayed,
            dict.fromkeys(replayed, LARGEST_K3),
            6,
        ),
        claims.rises("Does R3 end higher than live routing?", of("R3"), of("live")),
        claims.rises("Does R2?", of("R2"), of("live")),
        *(
            claims.rises(f"Does {name} help live routing?", of(named("live", name)), of("live"))
            for name in CORRECTIONS
            if name
        ),
        claims.rises("Does a float32 trainer?", of(FLOAT32), of("live")),
    ]


_SETS = {"seen": jobs.SETS["seen"], "longer": jobs.SETS["longer"]}
_READING, _REWARDED = jobs.of_texts(world.TEXTS, _SETS)
run = pipeline.of(
    {"base": sweep.of(_READING), "rl": sweep.of(_REWARDED)}, stages.judged(judge, _SHOWN)
)


def experiment() -> pipeline.Pipeline:
    return pipeline.Pipeline(
        name="rl_routing",
        question="Does routing replay steady reinforcement learning?",
        stages=(
            settings.base("base"),
            settings.rewarded("rl", _ARMS, num_rounds=NUM_ROUNDS),
        ),
    )
