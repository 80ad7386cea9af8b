"""The jobs of kanana_post by stage: those of every project, with its texts and its measurements."""

import functools

from experiments.kanana_post import texts
from experiments.kanana_post.size import Size
from kanana_jax import data
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


def of(size: Size) -> dict[str, Job]:
    material = texts.of(size)
    measured = functools.partial(playing.measured, held=size.measured())
    text = pretrain.JOB._replace(read=functools.partial(data.read_text, streams=material.texts))
    read_talk = functools.partial(conversations.read, streams=material.conversations)
    read_pairs = functools.partial(preferences.read, streams=material.pairs)
    tuned = measured(sft.JOB._replace(read=read_talk))
    rejecting = rejection.JOB._replace(read=read_talk, evaluators=rejection.evaluators)
    online = measured(online_preference.JOB._replace(read=read_pairs))
    asked = size.rollouts("calibration", *size.asked)
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
        "online": confidence.measured(online, asked, num_heldout=size.num_asked),
        "calibration": measured(calibration.JOB._replace(read=read_talk)),
    }
