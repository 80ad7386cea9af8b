"""The stages, and the settings that differ between a laptop and a GPU."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from experiments.depth_upscaling.verdict import GROWTHS, ON, PARENT, SCRATCH, SHARES, start_of
from kanana_jax import config
from kanana_jax.jobs import pipeline, pretrain, sweep
from kanana_jax.plan import flops


@dataclass(frozen=True, kw_only=True)
class Size:
    parent: config.ModelConfig
    num_layers: int  # of grown models
    execution: config.ExecutionConfig
    data: config.DataConfig
    lr: float
    polar_dtype: Literal["auto", "float32", "bfloat16"]
    warmup_steps: int
    parent_steps: int
    grown_steps: int
    decay_steps: int  # at the end of all but the parent

    def grown(self) -> config.ModelConfig:
        return dataclasses.replace(self.parent, num_layers=self.num_layers)

    def changes(self) -> dict[str, str]:
        """What each growth asks of `model.surgery`."""
        more = self.num_layers - self.parent.num_layers
        overlap = self.parent.num_layers - self.num_layers // 2
        words = f"stack={overlap}", f"interpose={more}", f"interpose_zero={more}"
        return dict(zip(GROWTHS, words, strict=True))

    def flops(self, shape: config.ModelConfig) -> float:
        """FLOPs of one step."""
        return flops.of_model(shape, self.data.batch_size, self.data.seq_len)


def compared(name: str, size: Size) -> pipeline.Pipeline:
    grown = size.grown()
    parent = _training(PARENT, "What does the parent know?", size, size.parent_steps, size.parent)
    stages = [_seeds(PARENT, parent)]
    for growth, change in size.changes().items():
        made = _training(start_of(growth), "What is lost at once?", size, 0, grown)
        surgery = config.SurgeryConfig(grow=(change,))
        stages.append(_seeds(start_of(growth), made, init_from=PARENT, surgery=surgery))
        more = _training(growth, "When is it regained?", size, size.grown_steps, grown)
        stages.append(_seeds(growth, more, init_from=start_of(growth)))
    ratio = size.flops(grown) / size.flops(size.parent)
    going_on = round(size.grown_steps * ratio)
    question = "What would the parent have learned?"
    control = _training(ON, question, size, going_on, size.parent)
    stages.append(_seeds(ON, control, init_from=PARENT))
    whole = size.grown_steps + size.parent_steps / ratio
    question = "What do as many layers cost from scratch?"
    scratch = _training(SCRATCH, question, size, round(whole), grown)
    arms = tuple(
        sweep.Arm(name=share, edits=(f"train.num_steps={round(part * whole)}",))
        for share, part in SHARES.items()
    )
    stages.append(pipeline.Stage(SCRATCH, sweep.Sweep(base=scratch, arms=arms, seeds=3)))
    return pipeline.Pipeline(
        name=name,
        question="Does a model grown from a trained one save FLOPs against one from scratch?",
        stages=tuple(stages),
    )


def _training(
    name: str, question: str, size: Size, num_steps: int, shape: config.ModelConfig
) -> pretrain.Config:
    decay_steps = size.decay_steps if name != PARENT and num_steps else 0
    return pretrain.Config(
        name=name,
        question=question,
        model=shape,
        execution=size.execution,
        data=size.data,
        optimizer=config.OptimizerConfig(
            lr=size.lr,
            polar_dtype=size.polar_dtype,
            schedule=config.ScheduleConfig(
                warmup_steps=size.warmup_steps if num_steps else 0, decay_steps=decay_steps
            ),
        ),
        train=config.TrainConfig(
            num_steps=num_steps,
            eval_interval_steps=max(num_steps // 10, 1),
            eval_batches=16,
            checkpoint_interval_steps=max(num_steps // 2, 1),
        ),
    )


def _seeds(name: str, cfg: pretrain.Config, **places) -> pipeline.Stage:
    return pipeline.Stage(name, sweep.Sweep(base=cfg, seeds=3), **places)
