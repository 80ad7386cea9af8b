"""mid_training on one H100: about 70M parameters, BPE tokens, bf16, problems of every family."""

import dataclasses

from experiments import mid_training
from kanana_jax import config
from kanana_jax.jobs import pipeline
from kanana_jax.model import presets
from kanana_jax.rollouts import tasks

JOB = mid_training.job(
    tuple(tasks.FAMILIES.values()), num_problems=30_000, num_korean=10_000, num_heldout=192
)
run = mid_training.running(JOB)

_NUM_STEPS = {mid_training.BASE: 200, mid_training.MID: 150}
_LR = {mid_training.BASE: 0.003, mid_training.MID: 0.002}


def experiment() -> pipeline.Pipeline:
    made = mid_training.experiment()
    stages = tuple(
        dataclasses.replace(
            stage, config=dataclasses.replace(stage.config, base=_larger(stage.base, stage.name))
        )
        for stage in made.stages
    )
    return dataclasses.replace(made, name="mid_training_h100", stages=stages)


def _larger(base: config.TrainingConfig, stage: str) -> config.TrainingConfig:
    num_steps = _NUM_STEPS[stage]
    return dataclasses.replace(
        base,
        model=presets.small(),
        execution=config.ExecutionConfig(loss_chunk_tokens=16_384),
        data=dataclasses.replace(base.data, tokenizer="bpe", seq_len=1024, batch_size=16),
        optimizer=dataclasses.replace(
            base.optimizer,
            lr=_LR[stage],
            polar_dtype="auto",
            schedule=config.ScheduleConfig(warmup_steps=20, decay_steps=num_steps // 2),
        ),
        train=dataclasses.replace(
            base.train,
            num_steps=num_steps,
            eval_interval_steps=num_steps // 2,
            eval_batches=16,
            diagnostics_interval_steps=num_steps,
            checkpoint_interval_steps=num_steps,
        ),
    )
