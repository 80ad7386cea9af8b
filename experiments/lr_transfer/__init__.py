"""Does the best learning rate of a narrow model stay the best one of a wider one? On a laptop.

Four rules of rates and initial scales (`optimizer.transfer`), each at widths 32, 64 and 128 of one
family, each over five rates. Rates are those of width 32, the base: where a rule fits, every width
is best at the same one. Kakao's rule (arXiv:2608.20061, Table 2) takes AdamW's exponents for Muon's
matrices; the spectral rule takes other ones for W_q and W_o, which decides between them.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.lr_transfer import verdict
from experiments.lr_transfer.picture import Optima
from kanana_jax import config
from kanana_jax.jobs import curves, pretrain, sweep
from kanana_jax.model import presets
from kanana_jax.report import comparison
from kanana_jax.report.results import Run

BASE_WIDTH, WIDTHS = 32, (32, 64, 128)
RULES = ("kakao", "spectral", "half", "none")
# A factor 2.5 apart, around the best rate of width 32.
RATES = (0.004, 0.01, 0.025, 0.06, 0.15)


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    pictures = (Optima(), *curves.TRAINING)
    return comparison.write(runs, about, path, curves=pictures, verdict=verdict.judge(runs))


run = sweep.of(pretrain.JOB, write_report=write)


def arm(rule: str, width: int) -> sweep.Arm:
    """One rule at one width: all that the family changes with it."""
    shape = presets.tiny_family(width)
    names = ("hidden_size", "num_heads", "num_experts", "routed_scaling_factor")
    edits = [f"model.{name}={getattr(shape, name)}" for name in names]
    if rule != "none":
        edits += [f"optimizer.transfer={rule}", f"optimizer.transfer_base_width={BASE_WIDTH}"]
    return sweep.Arm(name=verdict.name(rule, width), edits=tuple(edits))


def experiment() -> sweep.Sweep:
    base = pretrain.Config(
        name="lr_transfer",
        question="Does the best learning rate of a narrow model stay that of a wider one?",
        model=presets.tiny_family(BASE_WIDTH),
        execution=presets.LAPTOP,
        data=config.DataConfig(seq_len=128, batch_size=8),
        optimizer=config.OptimizerConfig(
            polar_dtype="float32",
            schedule=config.ScheduleConfig(warmup_steps=10, decay_steps=40),
        ),
        train=config.TrainConfig(
            num_steps=200,
            eval_interval_steps=200,
            eval_batches=16,
            checkpoint_interval_steps=200,
        ),
    )
    return sweep.Sweep(
        base=base,
        arms=tuple(arm(rule, width) for rule in RULES for width in WIDTHS),
        axes=(sweep.Axis("optimizer.lr", RATES),),
        seeds=3,
    )
