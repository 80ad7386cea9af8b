"""The settings of every stage. All batches have one shape, so that little is compiled."""

import dataclasses
from typing import Any, Literal

from experiments.kanana_post import texts
from experiments.kanana_post.size import CHAT, Size
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

_STILL: dict[str, Any] = {"z_loss_weight": 0.0, "balance_loss_weight": 0.0, "router_bias_rate": 0.0}
# The NLL term keeps the chosen answers likely, which a margin alone does not.
_PREFERENCE = preference.PreferenceConfig(beta=0.3, sft_weight=3.0)
_RUBRIC = judges.JudgeConfig()
_BY_MODEL = judges.JudgeConfig(kind="reward_model", reward_model="reward")
_OWN = 0.5  # the share of pairs from the model's own answers, where these are of one round
_TALK = (0.4, 0.3, 0.3)  # how conversations are mixed: chats, practice, sums


def stages(size: Size) -> tuple[Stage, ...]:
    return (*_on_text(size), *_on_talk(size), *_on_preferences(size), _calibrated(size))


def _on_text(size: Size) -> tuple[Stage, ...]:
    def made(name: str, question: str, weights: tuple[float, ...]) -> pretrain.Config:
        read = _data(size, texts.TEXTS, weights, heldout_fraction=0.02)
        return pretrain.Config(**_settings(size, name, question), data=read)

    base = made("base", "What does the base know?", (0.6, 0.4, 0.0, 0.0, 0.0))
    mid = made("mid", "What does it learn of tools and sums?", (0.12, 0.08, 0.35, 0.15, 0.3))
    return _stage(base), _stage(mid, "base")


def _on_talk(size: Size) -> tuple[Stage, ...]:
    def made(
        name: str, question: str, kind: Any = sft.Config, reasoning: Any = "none", **own: Any
    ) -> config.TrainingConfig:
        read = _data(size, texts.SPOKEN, _TALK, chat_reasoning=reasoning)
        return kind(**_settings(size, name, question, like="talk"), data=read, **own)

    practice = rejection.RejectionConfig(
        rollouts=size.rollouts("rejection", *size.practised),
        steps_per_round=size.rounds["rejection"].steps_per_round,
    )
    return (
        _stage(made("sft", "Does it answer?"), "mid"),
        _stage(made("thinking", "Does it reason before it answers?", reasoning="all"), "mid"),
        _stage(made("more_sft", "What do more steps of the same do?"), "sft"),
        _stage(
            made(
                "rejection",
                "Does it learn from what it got right?",
                rejection.Config,
                rejection=practice,
            ),
            "sft",
        ),
    )


def _on_preferences(size: Size) -> tuple[Stage, ...]:
    pairs = _data(size, ("style",))
    judging = _settings(size, "reward", "Does it know the better answer?", **_STILL)
    judging["model"] = dataclasses.replace(size.model, scalar_head=True)

    def preferring(name: str, question: str, like: str, share: float, judge: Any = _RUBRIC):
        rounds = size.rounds[like]
        return online_preference.Config(
            **_settings(size, name, question, like=like, **_STILL),
            data=pairs,
            preference=_PREFERENCE,
            online=online_preference.OnlineConfig(
                rollouts=size.rollouts(like, CHAT),
                judge=judge,
                steps_per_round=rounds.steps_per_round,
                share=share,
                num_heldout=58,
            ),
        )

    offline = preferring("dpo", "Does it give the better answer?", "dpo", _OWN)
    online = preferring("online", "Do newer answers of its own teach it more?", "online", 1.0)
    by_model = preferring(
        "online_by_model", "What if the reward model judges?", "online", 1.0, _BY_MODEL
    )
    chosen = rejection.Config(
        **_settings(size, "chosen", "What does training on chosen answers do?", like="talk"),
        data=_data(size, ("chosen",)),
        rejection=rejection.RejectionConfig(
            rollouts=size.rollouts("dpo", CHAT),
            steps_per_round=size.rounds["dpo"].steps_per_round,
            share=_OWN,
        ),
    )
    return (
        _stage(reward.Config(**judging, data=pairs), "rejection"),
        _stage(offline, "rejection"),
        _stage(chosen, "rejection"),
        _stage(online, "dpo"),
        _stage(by_model, "dpo", uses=(("online.judge.reward_model", "reward"),)),
    )


def _calibrated(size: Size) -> Stage:
    own = calibration.CalibrationConfig(
        rollouts=size.rollouts("calibration", *size.asked),
        steps_per_round=size.rounds["calibration"].steps_per_round,
        num_heldout=size.num_asked,
    )
    made = calibration.Config(
        **_settings(size, "calibration", "Does it know when it is right?"),
        data=_data(size, texts.SPOKEN, _TALK, chat_reasoning="none"),
        calibration=own,
    )
    return _stage(made, "online")


def _stage(
    base: config.TrainingConfig, init_from: str = "", uses: tuple[tuple[str, str], ...] = ()
) -> Stage:
    return Stage(base.name, Sweep(base=base), init_from=init_from, uses=uses)


def _settings(
    size: Size, name: str, question: str, like: str = "", **losses: Any
) -> dict[str, Any]:
    """The settings of a stage, by its own lesson or by that of `like`."""
    num_steps, lr = size.lessons[like or name]
    return {
        "name": name,
        "question": question,
        "model": size.model,
        "execution": size.execution,
        "optimizer": config.OptimizerConfig(
            lr=lr,
            polar_dtype=size.polar_dtype,
            schedule=config.ScheduleConfig(warmup_steps=5, decay_steps=num_steps // 2),
        ),
        "train": config.TrainConfig(
            num_steps=num_steps,
            eval_interval_steps=num_steps,
            eval_batches=8,
            diagnostics_interval_steps=num_steps,
            checkpoint_interval_steps=num_steps,
            **losses,
        ),
    }


def _data(
    size: Size,
    paths: tuple[str, ...],
    weights: tuple[float, ...] = (),
    heldout_fraction: float = 0.1,
    chat_reasoning: Literal["all", "none"] = "all",
) -> config.DataConfig:
    return dataclasses.replace(
        size.data,
        paths=paths,
        weights=weights,
        heldout_fraction=heldout_fraction,
        chat_reasoning=chat_reasoning,
    )
