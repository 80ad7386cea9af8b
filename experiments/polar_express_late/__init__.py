"""Does Polar Express help late in training, compared with Newton-Schulz? On a laptop, real text.

Muon makes its update orthogonal by a polynomial: five steps of Newton-Schulz with Keller Jordan's
coefficients, or five or eight of Polar Express (arXiv:2505.16932). The distance that is left to an
orthogonal matrix is noise in the update, which the published account of Kanana-2 wants to reduce
"in the latter stages". Each arm runs at four rates through a long constant phase and a decay, and
is judged at its own best rate.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.polar_express_late import verdict
from kanana_jax import config
from kanana_jax.jobs import curves, pretrain, sweep
from kanana_jax.model import presets
from kanana_jax.report import comparison
from kanana_jax.report.results import Run

ARMS = (
    sweep.Arm(name=verdict.NEWTON_SCHULZ, edits=("optimizer.polar=newton_schulz",)),
    sweep.Arm(name=verdict.POLAR_EXPRESS, edits=("optimizer.polar=polar_express",)),
    sweep.Arm(
        name=verdict.LONGER, edits=("optimizer.polar=polar_express", "optimizer.polar_steps=8")
    ),
)


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    first = (curves.ORTHOGONALITY_ERROR, curves.HELDOUT_BPB)
    pictures = (*first, *(one for one in curves.TRAINING if one not in first))
    return comparison.write(runs, about, path, curves=pictures, verdict=verdict.judge(runs))


run = sweep.of(pretrain.JOB, write_report=write)


def experiment() -> sweep.Sweep:
    num_steps, decay_steps = 300, 60
    base = pretrain.Config(
        name="polar_express_late",
        question="Does Polar Express help late in training?",
        model=dataclasses.replace(presets.tiny(), num_layers=3),
        execution=presets.LAPTOP,
        data=config.DataConfig(seq_len=128, batch_size=8),
        optimizer=config.OptimizerConfig(
            name="muon",
            polar_dtype="float32",
            schedule=config.ScheduleConfig(warmup_steps=10, decay_steps=decay_steps),
        ),
        train=config.TrainConfig(
            num_steps=num_steps,
            eval_interval_steps=decay_steps,  # so that one falls on the last constant step
            eval_batches=16,
            diagnostics_interval_steps=20,
            checkpoint_interval_steps=num_steps // 2,
        ),
    )
    rates = sweep.Axis("optimizer.lr", (0.00375, 0.0075, 0.015, 0.03))
    return sweep.Sweep(base=base, arms=ARMS, axes=(rates,), seeds=3)
