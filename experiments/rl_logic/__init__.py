"""Does a reward for right answers teach a model to reason, on lengths that it has not read?

    base -> rl: grpo, squared, no stored text
         -> more: as many tokens of the base's own kind of answers

The base reasons in one out of four answers (`world`). It reads sums of 2, 3, 5 and 7 digits; sums
of 4 and 6 are rewarded. Sampled answers, before and after, measure held-out problems of the lengths
that it has read, of those that are rewarded, of longer ones than any of these, and of another
family. The loss of its text, which still fills a ninth of each batch, is measured too.
"""

import dataclasses

from experiments.rl_logic import jobs, settings, verdict, world
from kanana_jax.jobs import pipeline, sweep
from kanana_jax.jobs.sweep import Arm
from kanana_jax.model import presets

READ, UNREAD = "digit_sum@2,3,5,7", "digit_sum@4,6"
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

# With two layers, one base in three does not learn to write the steps of seven digits.
_SHAPE = dataclasses.replace(presets.tiny(), num_layers=3)
_FAMILIES = {"read": READ, "unread": UNREAD, "longest": "digit_sum@8,9", "other": world.OTHER}
_SETS = {
    name: jobs.rollouts(family, num_prompts=jobs.NUM_TASKS) for name, family in _FAMILIES.items()
}
_READING, _REWARDED = jobs.of_texts(world.texts(READ), _SETS)

run = pipeline.of(
    {
        "base": sweep.of(_READING),
        "rl": sweep.of(_REWARDED),
        "more": sweep.of(_READING),
    },
    verdict.write,
)


def experiment() -> pipeline.Pipeline:
    # As many tokens as the tries and the stored rows of all rounds.
    num_steps = settings.NUM_ROUNDS * settings.NUM_ROWS // settings.BATCH_SIZE
    return pipeline.Pipeline(
        name="rl_logic",
        question="Does a reward for right answers teach a model to reason?",
        stages=(
            settings.base("base", shape=_SHAPE),
            settings.rewarded("rl", ARMS, families=(UNREAD,)),
            settings.more("more", num_steps),
        ),
    )
