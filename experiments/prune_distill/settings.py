"""Stages that read text, cut, and learn a teacher's distribution, on a laptop or a GPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from experiments import distill_small
from kanana_jax import config
from kanana_jax.jobs import distillation, pipeline, pretrain, sweep
from kanana_jax.model import presets

PRETRAIN, DISTILL = sweep.of(pretrain.JOB), sweep.of(distillation.JOB)


@dataclass(frozen=True, kw_only=True)
class Training:
    """The settings that all stages of a pipeline share, and the stages that use them."""

    execution: config.ExecutionConfig
    data: config.DataConfig
    fresh_lr: float  # the peak rate of new models
    cut_lr: float  # the peak rate of cut models
    polar_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    warmup_steps: int

    def reading(
        self, name: str, question: str, shape: config.ModelConfig, num_steps: int, **places: Any
    ) -> pipeline.Stage:
        """Reads text from scratch, or is only measured where there are no steps."""
        blocks = self._blocks(num_steps, self.fresh_lr)
        cfg = pretrain.Config(name=name, question=question, model=shape, **blocks)
        return pipeline.Stage(name, sweep.Sweep(base=cfg, seeds=3), **places)

    def cut(
        self,
        name: str,
        start: str,
        shape: config.ModelConfig,
        changes: Sequence[str],
        score: Any = "reap",
    ) -> pipeline.Stage:
        """Measures what is left of the model of stage `start`, which has `shape`."""
        made = config.SurgeryConfig(
            prune=tuple(changes), num_samples=256, length=128, expert_score=score
        )
        question = "What is lost at once?"
        return self.reading(name, question, shape, 0, init_from=start, surgery=made)

    def taught(
        self,
        name: str,
        shape: config.ModelConfig,
        teacher: str,
        num_steps: int,
        *,
        init_from: str = "",
        arms: tuple[sweep.Arm, ...] = (),
    ) -> pipeline.Stage:
        """A student of the model of a stage; without `init_from` a new model of `shape`."""
        cfg = distillation.Config(
            name=name,
            question="What does the teacher win back?" if init_from else "What does it do alone?",
            model=shape,
            distill=config.DistillConfig(num_tokens=distill_small.NUM_KEPT),
            **self._blocks(num_steps, self.cut_lr if init_from else self.fresh_lr),
        )
        made = sweep.Sweep(base=cfg, arms=arms, seeds=3)
        return pipeline.Stage(name, made, init_from=init_from, uses=(("distill.teacher", teacher),))

    def _blocks(self, num_steps: int, lr: float) -> dict[str, Any]:
        return {
            "execution": self.execution,
            "data": self.data,
            "optimizer": config.OptimizerConfig(
                lr=lr,
                polar_dtype=self.polar_dtype,
                schedule=config.ScheduleConfig(
                    warmup_steps=self.warmup_steps if num_steps else 0, decay_steps=num_steps // 3
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


LAPTOP = Training(
    execution=presets.LAPTOP,
    data=config.DataConfig(seq_len=128, batch_size=8),
    fresh_lr=0.015,
    cut_lr=0.01,
    polar_dtype="float32",
    warmup_steps=10,
)
