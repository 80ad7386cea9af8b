"""Does quantile balancing balance better than the sign rule at equal loss? On a laptop, real text.

The same small model trains on the same bytes with the same seeds; what differs is how a step moves
the router's bias: by the sign rule at two rates, by quantile balancing, or not at all.
"""

import dataclasses

from experiments.router_balance import report
from kanana_jax import config
from kanana_jax.jobs import pretrain, sweep
from kanana_jax.model import presets

SIGN = "train.router_balance=sign"
ARMS = (
    sweep.Arm(name="sign 0.001", edits=(SIGN, "train.router_bias_rate=0.001")),
    sweep.Arm(name="sign 0.01", edits=(SIGN, "train.router_bias_rate=0.01")),
    sweep.Arm(name="quantile", edits=("train.router_balance=quantile",)),
    sweep.Arm(name="none", edits=(SIGN, "train.router_bias_rate=0")),
)

run = sweep.of(pretrain.JOB, write_report=report.write)


def experiment() -> sweep.Sweep:
    base = pretrain.Config(
        name="router_balance",
        question="Does quantile balancing balance better than the sign rule at equal loss?",
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
            num_steps=200,
            eval_interval_steps=40,
            diagnostics_interval_steps=20,
            checkpoint_interval_steps=100,
        ),
    )
    return sweep.Sweep(base=base, arms=ARMS)
