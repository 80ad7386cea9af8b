"""What holds attention logits: QK-Clip, per-head Muon or norms of heads? On a laptop, real text.

All three were published as ways to keep Muon stable: Kimi K2 clips query and key weights
(arXiv:2507.20534), GLM-5 orthogonalises every head by itself (arXiv:2602.15763, "Muon Split") and
Qwen 3 normalises queries and keys. The last is not for latent attention, so all arms have
grouped-query attention. Each runs over rates a factor of three apart, far beyond the best one. Arms
are compared by the range of rates that they stand, and by the loss at their best.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.stabilisers import verdict
from experiments.stabilisers.picture import LossOfRate
from kanana_jax import config
from kanana_jax.jobs import curves, pretrain, sweep
from kanana_jax.model import presets
from kanana_jax.report import comparison
from kanana_jax.report.results import Run

ARMS = (
    sweep.Arm(name=verdict.NONE),
    sweep.Arm(name="QK-Clip", edits=("optimizer.name=muonclip",)),
    sweep.Arm(name="per-head Muon", edits=("optimizer.split=heads",)),
    sweep.Arm(name="QK-norm", edits=("model.qk_norm=true",)),
)
RATES = (0.0017, 0.005, 0.015, 0.045, 0.135, 0.405)


def shape() -> config.ModelConfig:
    """Grouped-query attention and dense MLPs of the tiny model's sizes."""
    return config.ModelConfig(
        vocab_size=0,
        hidden_size=128,
        num_layers=3,
        num_dense_layers=3,
        num_heads=4,
        num_kv_heads=2,
        q_lora_rank=None,
        kv_lora_rank=None,
        qk_nope_head_dim=0,
        qk_rope_head_dim=32,
        v_head_dim=32,
        intermediate_size=256,
    )


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    pictures = (LossOfRate(), *curves.TRAINING)
    return comparison.write(runs, about, path, curves=pictures, verdict=verdict.judge(runs))


run = sweep.of(pretrain.JOB, write_report=write)


def experiment() -> sweep.Sweep:
    base = pretrain.Config(
        name="stabilisers",
        question="What holds attention logits: QK-Clip, per-head Muon or norms of heads?",
        model=shape(),
        execution=presets.LAPTOP,
        data=config.DataConfig(seq_len=128, batch_size=8),
        optimizer=config.OptimizerConfig(
            name="muon",
            tau=30.0,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(warmup_steps=10, decay_steps=40),
        ),
        train=config.TrainConfig(
            num_steps=200,
            eval_interval_steps=40,
            eval_batches=16,
            checkpoint_interval_steps=200,
        ),
        guard=config.GuardConfig(enabled=False),  # an arm that diverges is a result
    )
    return sweep.Sweep(base=base, arms=ARMS, axes=(sweep.Axis("optimizer.lr", RATES),), seeds=3)
