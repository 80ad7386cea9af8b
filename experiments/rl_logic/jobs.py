"""The jobs of stages that measure sets of held-out problems."""

import functools
from collections.abc import Callable, Iterator, Mapping

from experiments.rl_logic import world
from kanana_jax import config, data
from kanana_jax.jobs import pass_rates, pretrain, rl
from kanana_jax.jobs.training import Job

NUM_TASKS, NUM_TRIES = 48, 8  # of each set


def rollouts(
    *families: str, num_prompts: int, num_samples: int = NUM_TRIES, seed: int = 0
) -> config.RolloutConfig:
    return config.RolloutConfig(
        families=families,
        num_prompts=num_prompts,
        num_samples=num_samples,
        max_tokens=64,
        max_turns=1,
        num_rows=64,
        seed=seed,
    )


SETS = {
    "seen": rollouts(world.SEEN, num_prompts=NUM_TASKS),
    "longer": rollouts(world.LONGER, num_prompts=NUM_TASKS),
}


def of_texts(
    texts: Mapping[str, Callable[[], Iterator[bytes]]], sets: Mapping[str, config.RolloutConfig]
) -> tuple[Job, Job]:
    """The job that reads texts, and the one that is rewarded as well; both measure `sets`."""
    text = pretrain.JOB._replace(read=functools.partial(data.read_text, streams=texts))
    return pass_rates.measured(text, sets), pass_rates.measured(rl.over(text), sets)
