"""A run in three stages with two batch sizes, two lengths and a change of rope, to be killed."""

import dataclasses

from kanana_jax import config
from kanana_jax.jobs import pretrain
from kanana_jax.model import presets

run = pretrain.run


def experiment() -> pretrain.Config:
    tokens = 60 * 8 * 64
    yarn = config.YarnConfig(factor=2.0, original_max_positions=64)
    return pretrain.Config(
        name="three_stages",
        question="Is a run that is killed across its switches the unbroken one?",
        model=dataclasses.replace(presets.tiny(), num_layers=2),
        execution=dataclasses.replace(presets.LAPTOP, accumulation_steps=1),
        data=config.DataConfig(seq_len=64, batch_size=8),
        optimizer=config.OptimizerConfig(
            lr=0.01,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(name="constant", warmup_steps=5),
        ),
        train=config.TrainConfig(
            eval_interval_steps=25,
            eval_batches=4,
            checkpoint_interval_steps=20,
            average=config.AverageConfig(every_tokens=5000),
        ),
        stages=(
            config.StageConfig(name="small", tokens=tokens, lr_begin=1.0),
            config.StageConfig(name="large", tokens=2 * tokens, batch_size=16, lr_begin=1.0),
            config.StageConfig(
                name="short", tokens=2 * tokens, batch_size=16, seq_len=32, lr_begin=1.0,
                lr_end=0.1, yarn=yarn,
            ),
        ),
    )  # fmt: skip
