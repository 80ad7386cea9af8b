"""Does a model that trains in FP8 lose anything? On a laptop, real text.

One small model trains on the same bytes with the same seeds. Its rate falls at the end, where gaps
show. The arms are: no FP8, rows only kept as FP8, FP8 products with three kinds of scales, and FP8
products of routed experts alone (docs/precision.md). MuonClip trains all of them; AdamW also trains
the first and the main FP8 arm: Muon leaves fewer outliers in activations (arXiv:2506.19697), which
FP8 would have to hold.

All else is float32, since CPUs emulate bfloat16. FP8 is rounded as on a Hopper GPU. At a hidden
size of 128 a block is the whole row of a token.
"""

import dataclasses

from experiments.fp8_parity import verdict
from kanana_jax import config
from kanana_jax.jobs import pretrain, sweep
from kanana_jax.model import presets

ADAMW = ("optimizer.name=adamw", "optimizer.lr=0.002")
ARMS = (
    sweep.Arm(name=verdict.FULL),
    sweep.Arm(name="kept as FP8", edits=("execution.precision=fp8_store",)),
    sweep.Arm(name=verdict.FP8, edits=("execution.precision=fp8",)),
    sweep.Arm(name="FP8 in experts alone", edits=("execution.precision=fp8_experts",)),
    sweep.Arm(name="FP8, float32 scales", edits=("execution.precision=fp8_float32_scales",)),
    sweep.Arm(name="FP8, a scale per tensor", edits=("execution.precision=fp8_per_tensor",)),
    sweep.Arm(name=verdict.ADAMW_FULL, edits=ADAMW),
    sweep.Arm(name=verdict.ADAMW_FP8, edits=(*ADAMW, "execution.precision=fp8")),
)

run = sweep.of(pretrain.JOB, write_report=verdict.write)


def experiment() -> sweep.Sweep:
    base = pretrain.Config(
        name="fp8_parity",
        question="Does a model that trains in FP8 lose anything?",
        model=dataclasses.replace(presets.tiny(), num_layers=3),
        execution=presets.LAPTOP,
        data=config.DataConfig(seq_len=128, batch_size=8),
        optimizer=config.OptimizerConfig(
            lr=0.015,
            tau=30.0,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(name="wsd", warmup_steps=10, decay_steps=40),
        ),
        train=config.TrainConfig(
            num_steps=120,
            eval_interval_steps=40,
            eval_batches=16,
            checkpoint_interval_steps=60,
        ),
    )
    return sweep.Sweep(base=base, arms=ARMS, seeds=3)
