"""Stages that read text and stages that a teacher's distribution is learned in."""

from collections.abc import Sequence
from typing import Any

from experiments import distill_small
from kanana_jax import config
from kanana_jax.jobs import distillation, pipeline, pretrain, sweep
from kanana_jax.model import presets

PRETRAIN, DISTILL = sweep.of(pretrain.JOB), sweep.of(distillation.JOB)
FRESH_LR, CUT_LR = 0.015, 0.01  # peaks, of new models and of what is left of trained ones


def _blocks(num_steps: int, lr: float) -> dict[str, Any]:
    return {
        "execution": presets.LAPTOP,
        "data": config.DataConfig(seq_len=128, batch_size=8),
        "optimizer": config.OptimizerConfig(
            lr=lr,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(
                warmup_steps=10 if num_steps else 0, decay_steps=num_steps // 3
            ),
        ),
        "train": config.TrainConfig(
            num_steps=num_steps,
            z_loss_weight=0.0,
            eval_interval_steps=max(num_steps // 4, 1),
            eval_batches=16,
            checkpoint_interval_steps=max(num_steps // 2, 1),
        ),
    }


def reading(
    name: str, question: str, shape: config.ModelConfig, num_steps: int, **places: Any
) -> pipeline.Stage:
    """Text from scratch, or measured only where there are no steps."""
    cfg = pretrain.Config(name=name, question=question, model=shape, **_blocks(num_steps, FRESH_LR))
    return pipeline.Stage(name, sweep.Sweep(base=cfg, seeds=3), **places)


def cut(
    name: str,
    start: str,
    shape: config.ModelConfig,
    changes: Sequence[str],
    score: Any = "reap",
) -> pipeline.Stage:
    """What is left of the model of `start`, which has `shape`, measured."""
    made = config.SurgeryConfig(
        prune=tuple(changes), num_samples=256, length=128, expert_score=score
    )
    return reading(name, "What is lost at once?", shape, 0, init_from=start, surgery=made)


def taught(
    name: str,
    shape: config.ModelConfig,
    teacher: str,
    num_steps: int,
    *,
    init_from: str = "",
    arms: tuple[sweep.Arm, ...] = (),
) -> pipeline.Stage:
    """Taught by the model of a stage; without `init_from` a new model of `shape`."""
    cfg = distillation.Config(
        name=name,
        question="What does the teacher win back?" if init_from else "What does it do alone?",
        model=shape,
        distill=config.DistillConfig(num_tokens=distill_small.NUM_KEPT),
        **_blocks(num_steps, CUT_LR if init_from else FRESH_LR),
    )
    made = sweep.Sweep(base=cfg, arms=arms, seeds=3)
    return pipeline.Stage(name, made, init_from=init_from, uses=(("distill.teacher", teacher),))
