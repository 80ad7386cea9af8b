"""From the first token to a model that answers: every stage of post-training in turn, on a laptop.

base -> mid -> sft -> rejection -> dpo -> online -> calibration        the instruct product
               |      |            ^
               |      more_sft     reward
               thinking                                                the thinking product
"""

import dataclasses
import functools

from experiments.kanana_post import texts
from kanana_jax import config, data
from kanana_jax.data import conversations, preferences
from kanana_jax.jobs import (
    calibration,
    judges,
    online_preference,
    pipeline,
    playing,
    preference,
    pretrain,
    rejection,
    reward,
    sft,
    sweep,
)
from kanana_jax.jobs.training import Job
from kanana_jax.model import presets

NUM_HELDOUT = 48
_MODEL = dataclasses.replace(presets.tiny(), num_layers=2)


def rollouts(*families: str, **further) -> config.RolloutConfig:
    return config.RolloutConfig(families=families, max_tokens=48, **further)


MEASURED = rollouts(texts.CHAT, texts.TOOLS, texts.SUMS)


def _jobs() -> dict[str, Job]:
    read_text = functools.partial(data.read_text, streams=texts.TEXTS)
    read_chats = functools.partial(conversations.read, streams=texts.CONVERSATIONS)
    read_pairs = functools.partial(preferences.read, streams=texts.PAIRS)
    measured = functools.partial(playing.measured, rollouts=MEASURED, num_tasks=NUM_HELDOUT)
    plain = pretrain.JOB._replace(read=read_text)
    tuned = measured(sft.JOB._replace(read=read_chats))
    return {
        "base": plain,
        "mid": measured(plain),
        "sft": tuned,
        "thinking": tuned,
        "more_sft": tuned,
        "rejection": measured(
            rejection.JOB._replace(read=read_chats, evaluators=rejection.evaluators)
        ),
        "reward": reward.JOB._replace(read=read_pairs),
        "dpo": measured(preference.JOB._replace(read=read_pairs)),
        "online": measured(online_preference.JOB._replace(read=read_pairs)),
        "calibration": measured(calibration.JOB._replace(read=read_chats)),
    }


run = pipeline.of({name: sweep.of(job) for name, job in _jobs().items()})


_TASKS = rollouts(texts.TOOLS, num_prompts=48, num_samples=4)
_TALK = rollouts(texts.CHAT, num_prompts=32, num_samples=4)
_SUMS = rollouts(texts.SUMS, num_prompts=64, num_samples=2)
_STILL = {"z_loss_weight": 0.0, "balance_loss_weight": 0.0, "router_bias_rate": 0.0}


def _settings(name: str, question: str, num_steps: int, lr: float, **train):
    """What the stages share."""
    return {
        "name": name,
        "question": question,
        "model": _MODEL,
        "execution": presets.LAPTOP,
        "optimizer": config.OptimizerConfig(
            lr=lr,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(warmup_steps=5, decay_steps=num_steps // 2),
        ),
        "train": config.TrainConfig(
            num_steps=num_steps,
            eval_interval_steps=num_steps,
            eval_batches=8,
            diagnostics_interval_steps=num_steps,
            checkpoint_interval_steps=num_steps,
            **train,
        ),
    }


def _data(paths, weights=(), heldout_fraction=0.1):
    return config.DataConfig(
        paths=paths, weights=weights, seq_len=160, batch_size=16, heldout_fraction=heldout_fraction
    )


def experiment() -> pipeline.Pipeline:
    text, chats = tuple(texts.TEXTS), tuple(texts.CONVERSATIONS)
    pairs = _data(tuple(texts.PAIRS))
    spoken = _data(chats, (0.4, 0.3, 0.3))
    tuned = functools.partial(_settings, num_steps=60, lr=0.003)
    stages = [
        pipeline.Stage(
            "base",
            pretrain.Config(
                **_settings("base", "What does the base know?", 500, 0.015),
                data=_data(text, (0.6, 0.4, 0, 0, 0), 0.02),
            ),
        ),
        pipeline.Stage(
            "mid",
            pretrain.Config(
                **_settings("mid", "What does it learn of tools and sums?", 300, 0.006),
                data=_data(text, (0.12, 0.08, 0.4, 0.2, 0.2), 0.02),
            ),
            init_from="base",
        ),
        pipeline.Stage(
            "sft", sft.Config(**tuned("sft", "Does it answer?"), data=spoken), init_from="mid"
        ),
        pipeline.Stage(
            "thinking",
            sft.Config(**tuned("thinking", "Does it reason first?"), data=spoken),
            init_from="mid",
        ),
        pipeline.Stage(
            "more_sft",
            sft.Config(
                **tuned("more_sft", "What do as many more steps of the same do?"), data=spoken
            ),
            init_from="sft",
        ),
        pipeline.Stage(
            "rejection",
            rejection.Config(
                **tuned("rejection", "Does it learn from what it got right?"),
                data=spoken,
                rejection=rejection.RejectionConfig(rollouts=_TASKS, steps_per_round=30),
            ),
            init_from="sft",
        ),
        pipeline.Stage(
            "reward",
            reward.Config(
                **_settings("reward", "Does it know the better answer?", 60, 0.003, **_STILL)
                | {"model": dataclasses.replace(_MODEL, scalar_head=True)},
                data=pairs,
            ),
            init_from="rejection",
        ),
        pipeline.Stage(
            "dpo",
            preference.Config(
                **_settings("dpo", "Does it prefer it?", 40, 0.0005, **_STILL), data=pairs
            ),
            init_from="rejection",
        ),
        pipeline.Stage(
            "online",
            online_preference.Config(
                **_settings("online", "And of its own?", 40, 0.0005, **_STILL),
                data=pairs,
                online=online_preference.OnlineConfig(
                    rollouts=_TALK,
                    steps_per_round=10,
                    judge=judges.JudgeConfig(kind="reward_model", reward_model="reward"),
                ),
            ),
            init_from="dpo",
            uses=(("online.judge.reward_model", "reward"),),
        ),
        pipeline.Stage(
            "calibration",
            calibration.Config(
                **tuned("calibration", "Does it know when it is right?"),
                data=spoken,
                calibration=calibration.CalibrationConfig(rollouts=_SUMS, steps_per_round=60),
            ),
            init_from="online",
        ),
    ]
    stages = [
        dataclasses.replace(one, config=sweep.Sweep(base=one.config, seeds=1)) for one in stages
    ]
    return pipeline.Pipeline(
        name="kanana_post",
        question="What does each stage after pre-training add?",
        stages=tuple(stages),
    )
