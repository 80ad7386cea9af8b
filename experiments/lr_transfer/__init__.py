"""Does the best learning rate of a narrow model stay the best one of a wider one? On a laptop.

Four rules for rates and initial scales (`optimizer.transfer`) run at widths 32, 64 and 128 of one
family, each over five rates. Rates are those of width 32, the base: if a rule fits, every width is
best at the same rate. Kakao's rule (arXiv:2608.20061, Table 2) takes AdamW's exponents for Muon's
matrices; the spectral rule takes others for W_q and W_o, which decides between the two.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.lr_transfer import verdict
from experiments.lr_transfer.picture import Optima
from kanana_jax import config
from kanana_jax.jobs import curves, pretrain, sweep
from kanana_jax.model import presets
from kanana_jax.report import comparison
from kanana_jax.report.results import Run

WIDTHS = 32, 64, 128
RULES = ("kakao", "spectral", "half", "none")
# A factor 2.5 apart, around the best rate of width 32.
RATES = (0.004, 0.01, 0.025, 0.06, 0.15)


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    pictures = (Optima(), *curves.TRAINING)
    return comparison.write(runs, about, path, curves=pictures, verdict=verdict.judge(runs))


run = sweep.of(pretrain.JOB, write_report=write)


def arms(
    family: Callable[[int], config.ModelConfig], widths: Sequence[int], rules: Sequence[str] = RULES
) -> tuple[sweep.Arm, ...]:
    """Every rule at every width (the first is the base), with all that the family changes."""
    names = ("hidden_size", "num_heads", "num_experts", "routed_scaling_factor")
    found = []
    for rule in rules:
        transfer = f"optimizer.transfer={rule}", f"optimizer.transfer_base_width={widths[0]}"
        for width in widths:
            shape = family(width)
            edits = tuple(f"model.{name}={getattr(shape, name)}" for name in names)
            edits += transfer if rule != "none" else ()
            found.append(sweep.Arm(name=verdict.name(rule, width), edits=edits))
    return tuple(found)


def experiment() -> sweep.Sweep:
    base = pretrain.Config(
        name="lr_transfer",
        question="Does the best learning rate of a narrow model stay that of a wider one?",
        model=presets.tiny_family(WIDTHS[0]),
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
        arms=arms(presets.tiny_family, WIDTHS),
        axes=(sweep.Axis("optimizer.lr", RATES),),
        seeds=3,
    )
