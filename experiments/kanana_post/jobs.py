"""The jobs of kanana_post by stage: the common ones, with its own texts and measurements."""

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
    compared = functools.partial(playing.measured, held=size.measured(practice=size.num_compared))
    tuned = sft.JOB._replace(read=read_talk)
    rejecting = rejection.JOB._replace(read=read_talk, evaluators=rejection.evaluators)
    online = measured(online_preference.JOB._replace(read=read_pairs))
    asked = size.rollouts("calibration", *size.asked)
    return {
        "base": text,
        "mid": measured(text),
        "sft": compared(tuned),
        "thinking": measured(tuned),
        "more_sft": compared(tuned),
        "rejection": compared(rejecting),
        "reward": reward.JOB._replace(read=read_pairs),
        "dpo": online,
        "chosen": measured(rejecting),
        "online": confidence.measured(online, asked, num_heldout=size.num_asked),
        "online_by_model": online,
        "calibration": measured(calibration.JOB._replace(read=read_talk)),
    }
