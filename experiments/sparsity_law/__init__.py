"""Do more experts at the same work lower the loss for the same FLOPs? On a laptop, real text.

A token takes one shared expert and two of 16, 32, 64 or 96: sparsity 8, 16, 32 and 48, as in the
sparsity law of Kimi K2 (arXiv:2507.20534, sec. 2.3), where it takes eight. The cost of a token
stays the same except for the router. Each arm runs at three rates and is read along the way.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.sparsity_law import verdict
from experiments.sparsity_law.picture import LossOfFlops
from kanana_jax import config
from kanana_jax.jobs import curves, pretrain, sweep
from kanana_jax.model import presets
from kanana_jax.report import comparison
from kanana_jax.report.results import Run

SPARSITIES, TOP_K = (8, 16, 32, 48), 2


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    pictures = (LossOfFlops(), *curves.TRAINING)
    return comparison.write(runs, about, path, curves=pictures, verdict=verdict.judge(runs))


run = sweep.of(pretrain.JOB, write_report=write)


def arm(sparsity: int) -> sweep.Arm:
    num_experts = sparsity * TOP_K
    scaling = presets.gate_scaling(num_experts, TOP_K)
    edits = f"model.num_experts={num_experts}", f"model.routed_scaling_factor={scaling}"
    return sweep.Arm(name=verdict.name(sparsity), edits=edits)


def proxies(name: str, question: str, shape: config.ModelConfig, num_steps: int) -> pretrain.Config:
    """Runs at a constant rate, read ten times by the average of their weights."""
    seq_len, batch_size = 128, 8
    every = num_steps // 10
    return pretrain.Config(
        name=name,
        question=question,
        model=shape,
        execution=presets.LAPTOP,
        data=config.DataConfig(seq_len=seq_len, batch_size=batch_size),
        optimizer=config.OptimizerConfig(
            tau=30.0,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(name="constant", warmup_steps=10),
        ),
        train=config.TrainConfig(
            num_steps=num_steps,
            eval_interval_steps=every,
            eval_batches=8,
            checkpoint_interval_steps=num_steps,
            diagnostics_interval_steps=every,
            average=config.AverageConfig(every_tokens=every // 4 * seq_len * batch_size),
        ),
    )


def experiment() -> sweep.Sweep:
    shape = dataclasses.replace(
        presets.tiny(),
        hidden_size=64,
        num_layers=3,
        num_heads=2,
        kv_lora_rank=32,
        intermediate_size=128,
        moe_intermediate_size=32,
        num_experts_per_token=TOP_K,
    )
    question = "Do more experts at the same work lower the loss for the same FLOPs?"
    base = proxies("sparsity_law", question, shape, 320)
    rates = sweep.Axis("optimizer.lr", (0.0075, 0.015, 0.03))
    arms = tuple(arm(sparsity) for sparsity in SPARSITIES)
    return sweep.Sweep(base=base, arms=arms, axes=(rates,), seeds=3)
