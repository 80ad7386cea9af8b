"""Is a clip of single heads better than one of whole layers, and does it stop? On a laptop.

QK-Clip scales the heads whose largest attention logit passed tau (arXiv:2507.20534, Alg. 1). A clip
that knows only a layer's largest logit scales all its heads, even those that need no clip. Three
arms train one model on the same bytes with the same seeds: Muon without a clip, and MuonClip by
layer and by head, each at a usual and at a high rate. The rate stays constant for most of the run,
to show whether heads go on passing tau.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.clip_granularity import verdict
from experiments.clip_granularity.picture import OverTau
from kanana_jax import config
from kanana_jax.jobs import curves, pretrain, sweep
from kanana_jax.model import presets
from kanana_jax.report import comparison
from kanana_jax.report.results import Run

ARMS = (
    sweep.Arm(name=verdict.NONE, edits=("optimizer.name=muon",)),
    sweep.Arm(name=verdict.LAYER, edits=("optimizer.clip_by=layer",)),
    sweep.Arm(name=verdict.HEAD),
)


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    pictures = (OverTau(), *curves.TRAINING)
    return comparison.write(runs, about, path, curves=pictures, verdict=verdict.judge(runs))


run = sweep.of(pretrain.JOB, write_report=write)


def experiment() -> sweep.Sweep:
    base = pretrain.Config(
        name="clip_granularity",
        question="Is a clip of single heads better than one of whole layers, and does it stop?",
        model=dataclasses.replace(presets.tiny(), num_layers=3),
        execution=presets.LAPTOP,
        data=config.DataConfig(seq_len=128, batch_size=8),
        optimizer=config.OptimizerConfig(
            name="muonclip",
            tau=15.0,  # low, so that heads of this size pass it at the usual rate too
            polar_dtype="float32",
            schedule=config.ScheduleConfig(name="wsd", warmup_steps=10, decay_steps=40),
        ),
        train=config.TrainConfig(
            num_steps=300,
            eval_interval_steps=60,
            eval_batches=16,
            checkpoint_interval_steps=150,
        ),
        guard=config.GuardConfig(enabled=False),  # an arm that diverges is a result
    )
    rates = sweep.Axis("optimizer.lr", (0.015, 0.06))
    return sweep.Sweep(base=base, arms=ARMS, axes=(rates,), seeds=3)
