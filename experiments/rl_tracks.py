"""Two tracks of reinforcement learning from one base: apart and merged, or together?

    base -> logic ---> mean     the mean of both models
         -> chat  ---> ties     their changes merged by TIES
         -> joint               both kinds of prompts in every round, as many tries as both tracks

The logic track is rewarded for right sums, the chat track by the rubric of greetings. Both are
measured in every model: a model of both has to reach each track's own model.
"""

import functools
import random
from collections.abc import Iterator, Sequence

from experiments.rl_logic import jobs, settings, world
from kanana_jax.jobs import pipeline, sweep
from kanana_jax.report import claims, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run
from kanana_jax.rollouts import task
from kanana_jax.rollouts.environments import small_talk

LOGIC, CHAT, MEAN, TIES, JOINT = "logic", "chat", "mean", "ties", "joint"
NUM_ROUNDS = 16
DENSITY = 0.2
NEAR = 0.03  # the share by which a model of both may stay behind a track
TALK = "talk"
_GOOD_SHARE = 0.5  # of the greetings that the base reads
_FAMILY = small_talk.FAMILY.name

_SETS = {
    "seen": jobs.SETS["seen"],
    "chat": jobs.rollouts(_FAMILY, num_prompts=jobs.NUM_TASKS),
}
_MEASURE = {LOGIC: "heldout_seen_pass@1", CHAT: "heldout_chat_pass@1"}
_SHOWN = (*_MEASURE.values(), "heldout_seen_reasoned", "heldout_bpb_english", "heldout_bpb_korean")


def _talk() -> Iterator[bytes]:
    """Greetings as people write them: half of them with a flaw of style."""
    rng = random.Random(0)
    for one in world.problems(_FAMILY, 4, 500):
        is_good = rng.random() < _GOOD_SHARE
        styles = small_talk.STYLE_FLAWS
        said = one.oracle[-1]["content"] if is_good else small_talk.flawed(one, rng, styles)
        yield world.text([*one.messages, task.assistant(said)])


_READING, _REWARDED = jobs.of_texts({**world.TEXTS, TALK: _talk}, _SETS)
_JOBS = {
    "base": _READING,
    LOGIC: _REWARDED,
    CHAT: _REWARDED,
    MEAN: _READING,
    TIES: _READING,
    JOINT: _REWARDED,
}


def judge(runs: Sequence[Run]) -> list[Claim]:
    """The claims, whatever came out."""

    def of(arm: str, key: str, plus: float = 0.0) -> dict[int, float]:
        return {run.seed: run.value(key) + plus for run in results.select(runs, arm=arm)}

    found = [
        claims.rises(f"Does the {track} track learn what it is rewarded for?", of(track, key), was)
        for track, key in _MEASURE.items()
        for was in [of("base", key)]
    ]
    found += [
        claims.rises(
            f"Is {model} within {NEAR:g} of the {track} track in what that learned?",
            of(model, key, NEAR),
            of(track, key),
        )
        for model in (MEAN, TIES, JOINT)
        for track, key in _MEASURE.items()
    ]
    return found


run = pipeline.of(
    {name: sweep.of(job) for name, job in _JOBS.items()}, stages.judged(judge, _SHOWN)
)


def experiment() -> pipeline.Pipeline:
    track = functools.partial(settings.rewarded, num_rounds=NUM_ROUNDS)
    return pipeline.Pipeline(
        name="rl_tracks",
        question="Two tracks apart and merged, or together?",
        stages=(
            settings.base("base", {TALK: 0.3}),
            track(LOGIC),
            track(CHAT, families=(_FAMILY,)),
            settings.measured(MEAN, (LOGIC, CHAT)),
            settings.measured(TIES, (LOGIC, CHAT), DENSITY),
            track(JOINT, num_rounds=2 * NUM_ROUNDS, families=(world.REWARDED, _FAMILY)),
        ),
    )
