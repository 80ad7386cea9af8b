"""What should an RMSNorm multiply by, and should its gain decay? On a laptop, real text.

Six arms train one model on the same bytes with the same seeds, each at three rates. A gain per
entry decays to 0 with all else, or not at all, or only in front of attention and MLP
(arXiv:2605.26895 finds decay good for norms of inputs). Written as 1 + gamma, it decays to 1. One
number per norm has no outlying channels (arXiv:2506.19697). No gain at all can express as much,
since matrices follow. An arm of 1 + gamma without decay is left out: it trains as the plain one
without decay does.

MuonClip trains them here and AdamW in `rmsnorm_adamw`. The model has a latent of queries too, so
there are five classes of norms, and their gains are told apart.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.rmsnorm import verdict
from kanana_jax import config
from kanana_jax.jobs import curves, gains, job, pretrain, sweep
from kanana_jax.model import presets
from kanana_jax.report import comparison
from kanana_jax.report.curves import Curve, Row
from kanana_jax.report.results import Run

ARMS = (
    sweep.Arm(name=verdict.DECAYED),
    sweep.Arm(name=verdict.KEPT, edits=("optimizer.norm_decay=none",)),
    sweep.Arm(name=verdict.INPUT, edits=("optimizer.norm_decay=input",)),
    sweep.Arm(name=verdict.CENTRED, edits=("model.zero_centered_gamma=true",)),
    sweep.Arm(name=verdict.SCALAR, edits=("model.norm_gain=scalar",)),
    sweep.Arm(name=verdict.NONE, edits=("model.norm_gain=none",)),
)
GAINS = Curve(
    name="gains",
    title="The largest gain of each class of norms",
    reading=(
        "In front of attention, of the MLP, of the latents of queries and of keys and values, and "
        "of the head. All begin at 1; what weight decay pulls down, gradients push back."
    ),
    rows=tuple(
        Row(key=f"gain_max_{name}", label=name.replace("_", " "), is_marked=True)
        for name in verdict.CLASSES
    ),
    panel_height=1.8,
)


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    pictures = (GAINS, *curves.TRAINING)
    return comparison.write(runs, about, path, curves=pictures, verdict=verdict.judge(runs))


run = sweep.of(job.measuring(pretrain.JOB, gains.evaluator), write_report=write)


def experiment() -> sweep.Sweep:
    base = pretrain.Config(
        name="rmsnorm",
        question="What should an RMSNorm multiply by, and should its gain decay?",
        model=dataclasses.replace(presets.tiny(), num_layers=3, q_lora_rank=32),
        execution=presets.LAPTOP,
        data=config.DataConfig(seq_len=128, batch_size=8),
        optimizer=config.OptimizerConfig(
            tau=30.0,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(warmup_steps=10, decay_steps=40),
        ),
        train=config.TrainConfig(
            num_steps=160,
            eval_interval_steps=40,
            eval_batches=16,
            checkpoint_interval_steps=160,
        ),
    )
    rates = sweep.Axis("optimizer.lr", (0.0075, 0.015, 0.03))
    return sweep.Sweep(base=base, arms=ARMS, axes=(rates,), seeds=3)
