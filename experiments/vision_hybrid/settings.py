"""The arms, and the settings that differ between a laptop and a GPU."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from kanana_jax import config
from kanana_jax.jobs import drawn_images
from kanana_jax.jobs.sweep import Arm, Sweep
from kanana_jax.model import presets

HYBRID, DIRECT, ENGLISH = "hybrid", "direct", "English steps"
ARMS = (
    Arm(name=HYBRID),
    Arm(name=DIRECT, edits=("images.think=0", "images.check=0")),
    Arm(name=ENGLISH, edits=("images.rationale=en",)),
)
# A model reads nothing after fewer steps: claims are for longer runs.
LEAST_STEPS = 500


@dataclass(frozen=True, kw_only=True)
class Size:
    model: config.ModelConfig
    execution: config.ExecutionConfig
    data: config.DataConfig
    images: config.ImageTasksConfig
    num_steps: int
    lr: float
    polar_dtype: Literal["auto", "float32", "bfloat16"]
    eval_batches: int


LAPTOP = Size(
    model=dataclasses.replace(
        presets.tiny(),
        num_layers=2,
        vision=config.VisionConfig(
            patch_size=8,
            num_channels=1,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            intermediate_size=64,
            position_grid=16,
        ),
    ),
    execution=presets.LAPTOP,
    data=config.DataConfig(seq_len=448, batch_size=2, image_patches=480),
    images=config.ImageTasksConfig(
        questions=("read", "sum", "filter", "audit"),
        rows=(3,),
        num_measured=2,
        max_tokens=24,
        num_rows=4,
    ),
    num_steps=4,
    lr=0.01,
    polar_dtype="float32",
    eval_batches=1,
)


def comparison(name: str, size: Size, seeds: int = 1) -> Sweep:
    num_steps = size.num_steps
    base = drawn_images.Config(
        name=name,
        question="Does reasoning over an image pay for its tokens, and does a second look?",
        model=size.model,
        execution=size.execution,
        data=size.data,
        images=size.images,
        optimizer=config.OptimizerConfig(
            lr=size.lr,
            polar_dtype=size.polar_dtype,
            schedule=config.ScheduleConfig(
                warmup_steps=num_steps // 30, decay_steps=num_steps // 3
            ),
        ),
        train=config.TrainConfig(
            num_steps=num_steps,
            eval_interval_steps=max(num_steps // 8, 1),
            eval_batches=size.eval_batches,
            diagnostics_interval_steps=num_steps,
            checkpoint_interval_steps=max(num_steps // 4, 1),
        ),
        # Reading is learned within a few updates, whose gradients look like a spike.
        guard=config.GuardConfig(num_sigmas=1000.0),
    )
    return Sweep(base=base, arms=ARMS, seeds=seeds)
