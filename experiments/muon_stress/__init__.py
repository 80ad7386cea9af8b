"""At learning rates that break the others, does MuonClip hold? On a laptop, on real text.

Four arms train the same small MLA mixture-of-experts model on the same bytes with the same seeds,
each at rates below, at and four times above its own best.
"""

import dataclasses

from experiments.muon_stress import report
from kanana_jax import config
from kanana_jax.jobs import pretrain, sweep
from kanana_jax.model import presets

ARMS = (
    # Its best rate lies below the others'.
    sweep.Arm(
        name="AdamW",
        edits=("optimizer.name=adamw",),
        axes=(sweep.Axis("optimizer.lr", (0.00025, 0.001)),),
    ),
    sweep.Arm(
        name="Muon, Newton-Schulz",
        edits=("optimizer.name=muon", "optimizer.polar=newton_schulz"),
    ),
    sweep.Arm(
        name="Muon, Polar Express",
        edits=("optimizer.name=muon", "optimizer.polar=polar_express"),
    ),
    sweep.Arm(
        name="MuonClip",
        edits=("optimizer.name=muonclip", "optimizer.polar=polar_express"),
    ),
)

run = sweep.of(pretrain.JOB, write_report=report.write)


def experiment() -> sweep.Sweep:
    base = pretrain.Config(
        name="muon_stress",
        question="At learning rates that break the others, does MuonClip hold?",
        model=dataclasses.replace(presets.tiny(), num_layers=3),
        execution=config.ExecutionConfig(compute_dtype="float32"),
        data=config.DataConfig(seq_len=128, batch_size=8),
        optimizer=config.OptimizerConfig(
            tau=30.0,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(name="wsd", warmup_steps=10, decay_steps=40),
        ),
        train=config.TrainConfig(
            num_steps=200,
            eval_interval_steps=40,
            diagnostics_interval_steps=20,
            checkpoint_interval_steps=50,
        ),
        guard=config.GuardConfig(enabled=False),  # an arm that diverges is a result
    )
    rates = sweep.Axis("optimizer.lr", (0.004, 0.015, 0.06))
    return sweep.Sweep(base=base, arms=ARMS, axes=(rates,))
