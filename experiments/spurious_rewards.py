"""What do rewards teach that look away from the answer? On a clean base and on a leaky one.

    truth      the answer is right                      format     reasoning stands before it
    random     a coin                                   inverted   the answer is wrong

The clean base reads sums of 2 to 5 digits, mostly with the answer alone. The leaky one goes on from
it and reads the problems that both are measured on, with their answers, as bases that read the
whole web may have done. Where a worthless reward seems to help a leaky base, it helps the base to
remember.
"""

import functools
from collections.abc import Iterator, Sequence

from experiments.rl_logic import jobs, settings, world
from kanana_jax.jobs import pipeline, sweep
from kanana_jax.jobs.sweep import Arm
from kanana_jax.report import claims, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run
from kanana_jax.rollouts.environments import drawing, families

TRUTH, FORMAT, RANDOM, INVERTED = "truth", "format", "random", "inverted"
NUM_ROUNDS = 12
SHARE = 0.5  # of what the truth teaches
LEAK = "leak"
CLEAN, LEAKY = "base", "leaky_base"
OF_CLEAN, OF_LEAKY = "clean", "leaky"

_SETS = {"longer": jobs.SETS["longer"]}
_PASS, _TRACE = "heldout_longer_pass@1", "heldout_longer_trace"
_SHOWN = ("pass@1", "pass@8", "constant", "reasoned", "trace", "drawn_tokens")
_NUM_COPIES = 40  # of each leaked problem in its text
_LEAK_STEPS, _LEAK_WEIGHT = 150, 1.0  # as much of them as of all else


def _leak() -> Iterator[bytes]:
    """The problems that are measured, with their answers alone."""
    measured = _SETS["longer"]
    drawn = drawing.tasks_of(
        [families.of(name) for name in measured.families],
        measured.languages,
        seed=measured.seed,
        count=measured.num_prompts,
        heldout=True,
    )
    for one in drawn * _NUM_COPIES:
        yield world.text([*one.messages, *world.reply(one, is_reasoned=False)])


_CLEAN = jobs.of_texts(world.TEXTS, _SETS)
_LEAKY = jobs.of_texts({**world.TEXTS, LEAK: _leak}, _SETS)
_JOBS = dict(zip((CLEAN, OF_CLEAN, LEAKY, OF_LEAKY), (*_CLEAN, *_LEAKY), strict=True))


def _arms(*names: str) -> tuple[Arm, ...]:
    return tuple(Arm(name=name, edits=(f"rl.reward={name}",)) for name in names)


def judge(runs: Sequence[Run]) -> list[Claim]:
    """The claims, whatever came out."""

    def of(arm: str, key: str = _PASS) -> dict[int, float]:
        return {run.seed: run.value(key) for run in results.select(runs, arm=arm)}

    def gained(arm: str, base: str, share: float = 1.0) -> dict[int, float]:
        was = of(base)
        return {seed: share * (x - was[seed]) for seed, x in of(arm).items() if seed in was}

    truth, form, chance, inverted = (
        f"{OF_CLEAN}: {name}" for name in (TRUTH, FORMAT, RANDOM, INVERTED)
    )
    return [
        claims.rises("Does the truth teach?", of(truth), of(CLEAN)),
        claims.rises(
            f"Does a reward for the form alone give {SHARE:.0%} of that?",
            gained(form, CLEAN),
            gained(truth, CLEAN, SHARE),
        ),
        claims.rises(
            "Are the steps of a reasoning better with the truth than with the form?",
            of(truth, _TRACE),
            of(form, _TRACE),
        ),
        claims.rises("Does a random reward help a clean base?", of(chance), of(CLEAN)),
        claims.rises("Does an inverted reward make it worse?", of(CLEAN), of(inverted)),
        claims.rises("Has the leaky base an advantage?", of(LEAKY), of(CLEAN)),
        claims.rises(
            "Does a random reward help it more than a clean one?",
            gained(f"{OF_LEAKY}: {RANDOM}", LEAKY),
            gained(chance, CLEAN),
        ),
    ]


run = pipeline.of(
    {name: sweep.of(job) for name, job in _JOBS.items()},
    stages.judged(judge, [f"heldout_longer_{name}" for name in _SHOWN]),
)


def experiment() -> pipeline.Pipeline:
    of_stage = functools.partial(settings.rewarded, num_rounds=NUM_ROUNDS)
    return pipeline.Pipeline(
        name="spurious_rewards",
        question="What do rewards teach that look away from the answer?",
        stages=(
            settings.base(CLEAN),
            of_stage(OF_CLEAN, _arms(TRUTH, FORMAT, RANDOM, INVERTED), CLEAN),
            settings.more(LEAKY, _LEAK_STEPS, CLEAN, {LEAK: _LEAK_WEIGHT}),
            of_stage(OF_LEAKY, _arms(TRUTH, RANDOM), LEAKY),
        ),
    )
