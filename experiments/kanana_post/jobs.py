"""The jobs of kanana_post by stage: those of every project, with its texts and its measurements."""

import functools

from experiments.kanana_post import texts
from kanana_jax import config, data
from kanana_jax.data import conversations, preferences
from kanana_jax.jobs import (
    calibration,
    confidence,
    online_preference,
    playing,
    preference,
    pretrain,
    rejection,
    reward,
    sft,
)
from kanana_jax.jobs.training import Job

NUM_TASKS = 72  # held-out ones that measure a stage
NUM_ASKED = 96  # held-out ones whose confidence is measured


def rollouts(*families: str, num_prompts: int, num_samples: int = 4) -> config.RolloutConfig:
    return config.RolloutConfig(
        families=families, num_prompts=num_prompts, num_samples=num_samples, max_tokens=48
    )


MEASURED = rollouts(texts.CHAT, texts.TOOLS, texts.SUMS, num_prompts=NUM_TASKS)
ASKED = rollouts(texts.TOOLS, "chain_sum@3,4", num_prompts=96, num_samples=2)


def _jobs() -> dict[str, Job]:
    measured = functools.partial(playing.measured, rollouts=MEASURED, num_tasks=NUM_TASKS)
    text = pretrain.JOB._replace(read=functools.partial(data.read_text, streams=texts.TEXTS))
    read_talk = functools.partial(conversations.read, streams=texts.CONVERSATIONS)
    read_pairs = functools.partial(preferences.read, streams=texts.PAIRS)
    tuned = measured(sft.JOB._replace(read=read_talk))
    rejecting = rejection.JOB._replace(read=read_talk, evaluators=rejection.evaluators)
    online = measured(online_preference.JOB._replace(read=read_pairs))
    return {
        "base": text,
        "mid": measured(text),
        "sft": tuned,
        "thinking": tuned,
        "more_sft": tuned,
        "rejection": measured(rejecting),
        "reward": reward.JOB._replace(read=read_pairs),
        "dpo": measured(preference.JOB._replace(read=read_pairs)),
        "chosen": tuned,
        "online": confidence.measured(online, ASKED, num_heldout=NUM_ASKED),
        "calibration": measured(calibration.JOB._replace(read=read_talk)),
    }


JOBS = _jobs()
