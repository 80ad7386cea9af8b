"""The settings of every stage. All batches have one shape, so that little is compiled."""

import dataclasses
from typing import Any

from experiments.kanana_post import jobs, texts
from kanana_jax import config
from kanana_jax.jobs import (
    calibration,
    judges,
    online_preference,
    preference,
    pretrain,
    rejection,
    reward,
    sft,
)
from kanana_jax.jobs.pipeline import Stage
from kanana_jax.jobs.sweep import Sweep
from kanana_jax.model import presets

SEQ_LEN, BATCH_SIZE = 192, 12

_MODEL = dataclasses.replace(presets.tiny(), num_layers=2)
_STILL: dict[str, Any] = {"z_loss_weight": 0.0, "balance_loss_weight": 0.0, "router_bias_rate": 0.0}
# The NLL term keeps the chosen answers likely, which a margin alone does not.
_PREFERENCE = preference.PreferenceConfig(beta=0.3, sft_weight=1.0)
_TALK = (0.4, 0.3, 0.3)  # how conversations are mixed: chats, products, sums


def stages() -> tuple[Stage, ...]:
    text = tuple(texts.TEXTS)
    spoken = _data(texts.SPOKEN, _TALK, chat_reasoning="none")
    pairs = _data(("style",))
    return (
        _stage(
            "base",
            pretrain.Config(
                **_settings("base", "What does the base know?", 500, 0.015),
                data=_data(text, (0.6, 0.4, 0.0, 0.0, 0.0), heldout_fraction=0.02),
            ),
        ),
        _stage(
            "mid",
            pretrain.Config(
                **_settings("mid", "What does it learn of tools and sums?", 700, 0.006),
                data=_data(text, (0.12, 0.08, 0.35, 0.2, 0.25), heldout_fraction=0.02),
            ),
            "base",
        ),
        _stage("sft", sft.Config(**_tuning("sft", "Does it answer?"), data=spoken), "mid"),
        _stage(
            "thinking",
            sft.Config(
                **_tuning("thinking", "Does it reason before it answers?"),
                data=dataclasses.replace(spoken, chat_reasoning="all"),
            ),
            "mid",
        ),
        _stage(
            "more_sft",
            sft.Config(**_tuning("more_sft", "What do more steps of the same do?"), data=spoken),
            "sft",
        ),
        _stage(
            "rejection",
            rejection.Config(
                **_tuning("rejection", "Does it learn from what it got right?"),
                data=spoken,
                rejection=rejection.RejectionConfig(
                    rollouts=jobs.rollouts(texts.TOOLS, num_prompts=64), steps_per_round=30
                ),
            ),
            "sft",
        ),
        _stage(
            "reward",
            reward.Config(
                **_settings(
                    "reward",
                    "Does it know the better answer?",
                    150,
                    0.003,
                    _STILL,
                    model=dataclasses.replace(_MODEL, scalar_head=True),
                ),
                data=pairs,
            ),
            "rejection",
        ),
        _stage(
            "dpo",
            preference.Config(
                **_settings("dpo", "Does it give the better answer?", 60, 0.002, _STILL),
                data=pairs,
                preference=_PREFERENCE,
            ),
            "rejection",
        ),
        _stage(
            "chosen",
            sft.Config(
                **_settings("chosen", "What does training on chosen answers do?", 60, 0.003),
                data=_data(("chosen",)),
            ),
            "rejection",
        ),
        _stage(
            "online",
            online_preference.Config(
                **_settings("online", "Do its own answers teach it more?", 60, 0.0005, _STILL),
                data=pairs,
                preference=_PREFERENCE,
                online=online_preference.OnlineConfig(
                    rollouts=jobs.rollouts(texts.CHAT, num_prompts=48),
                    judge=judges.JudgeConfig(kind="reward_model", reward_model="reward"),
                    steps_per_round=15,
                    num_heldout=48,
                ),
            ),
            "dpo",
            uses=(("online.judge.reward_model", "reward"),),
        ),
        _stage(
            "calibration",
            calibration.Config(
                **_tuning("calibration", "Does it know when it is right?", 0.001),
                data=spoken,
                calibration=calibration.CalibrationConfig(
                    rollouts=jobs.ASKED, steps_per_round=60, num_heldout=jobs.NUM_ASKED
                ),
            ),
            "online",
        ),
    )


def _stage(
    name: str,
    base: config.TrainingConfig,
    init_from: str = "",
    uses: tuple[tuple[str, str], ...] = (),
) -> Stage:
    return Stage(name, Sweep(base=base), init_from=init_from, uses=uses)


def _tuning(name: str, question: str, lr: float = 0.003) -> dict[str, Any]:
    """Of stages that train on conversations: as many steps each."""
    return _settings(name, question, 60, lr)


def _settings(
    name: str,
    question: str,
    num_steps: int,
    lr: float,
    still: dict[str, Any] | None = None,
    model: config.ModelConfig = _MODEL,
) -> dict[str, Any]:
    return {
        "name": name,
        "question": question,
        "model": model,
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
            **(still or {}),
        ),
    }


def _data(
    paths: tuple[str, ...],
    weights: tuple[float, ...] = (),
    heldout_fraction: float = 0.1,
    chat_reasoning: Any = "all",
) -> config.DataConfig:
    return config.DataConfig(
        paths=paths,
        weights=weights,
        seq_len=SEQ_LEN,
        batch_size=BATCH_SIZE,
        heldout_fraction=heldout_fraction,
        chat_reasoning=chat_reasoning,
    )
