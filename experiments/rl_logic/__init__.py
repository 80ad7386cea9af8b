"""Does a reward for right answers teach a model to reason, on lengths that it has not read?

    base -> rl: grpo, squared, no stored text
         -> more: as many tokens of the base's own kind of answers

The base reasons in one out of four answers (`world`). It reads sums of 2, 3 and 5 digits; sums of 4
are rewarded. Sampled answers, before and after, measure held-out problems of the lengths that it
has read, of the rewarded one, of longer ones than any of these, and of another family. The loss of
its text, which still fills a ninth of each batch, is measured too.
"""

from experiments.rl_logic import jobs, settings, verdict, world
from kanana_jax.jobs import pipeline, sweep
from kanana_jax.jobs.sweep import Arm

READ, UNREAD = "digit_sum@2,3,5", "digit_sum@4"
ARMS = (
    Arm(name=verdict.GRPO),
    Arm(name=verdict.SQUARED, edits=("rl.loss=squared",)),
    Arm(
        name=verdict.NO_TEXT,
        edits=(
            "rl.stored_share=0",
            f"rl.rollouts.num_prompts={settings.NUM_ROWS // jobs.NUM_TRIES}",
        ),
    ),
)

_FAMILIES = {"read": READ, "unread": UNREAD, "longest": world.LONGER, "other": world.OTHER}
_SETS = {
    name: jobs.rollouts(family, num_prompts=jobs.NUM_TASKS) for name, family in _FAMILIES.items()
}
_READING, _REWARDED = jobs.of_texts(world.texts(READ), _SETS)

_JOBS = {"base": _READING, "rl": _REWARDED, "more": _READING}

run = pipeline.of({name: sweep.of(job) for name, job in _JOBS.items()}, verdict.write)


def experiment() -> pipeline.Pipeline:
    # As many tokens as the tries and the stored rows of all rounds.
    num_steps = settings.NUM_ROUNDS * settings.NUM_ROWS // settings.BATCH_SIZE
    return pipeline.Pipeline(
        name="rl_logic",
        question="Does a reward for right answers teach a model to reason?",
        stages=(
            settings.base("base"),
            settings.rewarded("rl", ARMS, families=(UNREAD,)),
            settings.more("more", num_steps),
        ),
    )
