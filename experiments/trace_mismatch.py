"""Does it hurt when fine-tuning writes reasoning in a different way from what the base has read?

Two ways to write the same sum, with steps of one width:

    after    3=3 8=1 1=2     a digit, then the sum after it
    before   0+3 3+8 1+1     the sum so far, then the next digit

A base reads one of them. It goes on with a little text in the same way or in the other, and rounds
of rewards follow. Each way is on both sides, so a way that is harder to learn hurts both alike.
What is left is the mismatch: both matched models against both crossed ones.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from experiments.rl_logic import jobs, settings, world
from kanana_jax.jobs import pipeline, sweep
from kanana_jax.jobs.pipeline import Stage
from kanana_jax.jobs.training import Job
from kanana_jax.report import claims, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

AFTER, BEFORE = "after", "before"
NUM_STEPS, NUM_ROUNDS = 40, 12  # of text, and of rewards
MATCHED = ((AFTER, AFTER), (BEFORE, BEFORE))
CROSSED = ((AFTER, BEFORE), (BEFORE, AFTER))

_SETS = {"seen": jobs.SETS["seen"], "longer": jobs.SETS["longer"]}
_PASS, _LONGER = "heldout_seen_pass@1", "heldout_longer_pass@1"
_SHOWN = (
    *(_PASS, _LONGER, "heldout_seen_reasoned", "heldout_longer_reasoned"),
    *("heldout_longer_trace", "heldout_bpb_reasoned"),
)


def before(steps: str) -> str:
    """Steps of the way `after`, rewritten in the way `before`."""
    pairs = [step.split("=") for step in steps.split()]
    sums = ["0", *(total for _, total in pairs)]
    return " ".join(f"{total}+{digit}" for total, (digit, _) in zip(sums, pairs, strict=False))


def _documents(count: int) -> Iterator[bytes]:
    for one in world.problems(world.SEEN, 2, count):
        (said,) = world.reply(one, is_reasoned=True)
        retold = said | {"reasoning_content": before(said["reasoning_content"])}
        yield world.text([*one.messages, retold])


def _texts(way: str) -> Mapping[str, Callable[[], Iterator[bytes]]]:
    own = {} if way == AFTER else {"reasoned": functools.partial(_documents, 3000)}
    return {**world.TEXTS, **own}


def _base(way: str) -> str:
    return "base" if way == AFTER else "base_before"


def _tuned(read: str, tuned: str) -> str:
    return f"{read}_{tuned}"


def _jobs() -> dict[str, Job]:
    of_way = {way: jobs.of_texts(_texts(way), _SETS) for way in (AFTER, BEFORE)}
    made: dict[str, Job] = {_base(way): reading for way, (reading, _) in of_way.items()}
    for read, tuned in (*MATCHED, *CROSSED):
        name = _tuned(read, tuned)
        made[name], made[f"rl_{name}"] = of_way[tuned]
    return made


def judge(runs: Sequence[Run]) -> list[Claim]:
    """The claims, whatever came out."""

    def mean(
        which: Sequence[tuple[str, str]], prefix: str, value: Callable[[Run], float]
    ) -> dict[int, float]:
        by_seed: dict[int, list[float]] = {}
        for ways in which:
            for run in results.select(runs, arm=prefix + _tuned(*ways)):
                by_seed.setdefault(run.seed, []).append(value(run))
        return {seed: float(np.mean(x)) for seed, x in by_seed.items() if len(x) == len(which)}

    def asked(question: str, prefix: str, value: Callable[[Run], float]) -> Claim:
        matched, crossed = (mean(which, prefix, value) for which in (MATCHED, CROSSED))
        return claims.rises(question, matched, crossed)

    def solved(run: Run) -> float:
        values_N = run.series("round_success").values_N
        return float(values_N.mean()) if values_N.size else float("nan")

    def of_key(key: str) -> Callable[[Run], float]:
        return lambda run: run.value(key)

    return [
        asked("Is a matched model ahead before any reward?", "", of_key(_PASS)),
        asked("Does it solve more over all rounds?", "rl_", solved),
        asked("Is it ahead after them?", "rl_", of_key(_PASS)),
        asked("Also in problems longer than it has read?", "rl_", of_key(_LONGER)),
        *(
            claims.rises(
                f"Rewarded in the way {way!r}, is the base ahead that has read it?",
                mean([(way, way)], "rl_", of_key(_PASS)),
                mean([(other, way)], "rl_", of_key(_PASS)),
            )
            for other, way in reversed(CROSSED)
        ),
        claims.rises(
            "Is one way harder to learn than the other?",
            mean(MATCHED[:1], "rl_", of_key(_PASS)),
            mean(MATCHED[1:], "rl_", of_key(_PASS)),
        ),
    ]


run = pipeline.of(
    {name: sweep.of(job) for name, job in _jobs().items()}, stages.judged(judge, _SHOWN)
)


def _of_ways(read: str, tuned: str) -> tuple[Stage, Stage]:
    name = _tuned(read, tuned)
    return (
        settings.more(name, NUM_STEPS, init_from=_base(read)),
        settings.rewarded(f"rl_{name}", init_from=name, num_rounds=NUM_ROUNDS),
    )


def experiment() -> pipeline.Pipeline:
    pairs = (_of_ways(*ways) for ways in (*MATCHED, *CROSSED))
    return pipeline.Pipeline(
        name="trace_mismatch",
        question="Does reasoning written in another way than it was read hurt?",
        stages=(
            *(settings.base(_base(way)) for way in (AFTER, BEFORE)),
            *(stage for pair in pairs for stage in pair),
        ),
    )
