"""Do twice as many heads pay for what they cost? On a laptop, real text.

Kimi K2 has half the heads of DeepSeek-V3: doubling them lowered its validation loss by 0.5 to 1.2 %
and made inference at 128K tokens 83 % more expensive (arXiv:2507.20534, sec. 2.3). The same model
trains with 2, 4 and 8 heads of one size, at three rates, and is read along the way: loss at equal
tokens, and FLOPs to an equal loss.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.head_count import verdict
from experiments.sparsity_law import proxies
from experiments.sparsity_law.picture import LossOfFlops
from kanana_jax.jobs import curves, pretrain, sweep
from kanana_jax.model import presets
from kanana_jax.report import comparison
from kanana_jax.report.results import Run

HEADS = (2, 4, 8)
ARMS = tuple(
    sweep.Arm(name=verdict.name(number), edits=(f"model.num_heads={number}",)) for number in HEADS
)


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    pictures = (LossOfFlops(), *curves.TRAINING)
    return comparison.write(runs, about, path, curves=pictures, verdict=verdict.judge(runs))


run = sweep.of(pretrain.JOB, write_report=write)


def experiment() -> sweep.Sweep:
    shape = dataclasses.replace(presets.tiny(), num_layers=2)
    question = "Do twice as many heads pay for what they cost?"
    base = proxies("head_count", question, shape, 300)
    rates = sweep.Axis("optimizer.lr", (0.0075, 0.015, 0.03))
    return sweep.Sweep(base=base, arms=ARMS, axes=(rates,), seeds=3)
