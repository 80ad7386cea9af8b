"""A small reward model from your own pairs, on a laptop.

    python -m kanana_jax.main --experiment=reward_small --set=data.paths=pairs.jsonl

A line of the file: {"prompt": "...", "chosen": "...", "rejected": "..."}. The model starts from
scratch; --set=train.init_from=FOLDER takes the model of a folder, and its scalar head if it has
one.
"""

import dataclasses

from kanana_jax import config
from kanana_jax.jobs import reward
from kanana_jax.model import presets

run = reward.run


def experiment() -> reward.Config:
    return reward.Config(
        name="reward_small",
        question="Does the model give the preferred answer of a held-out pair more reward?",
        model=dataclasses.replace(presets.tiny(), scalar_head=True),
        execution=presets.LAPTOP,
        data=config.DataConfig(
            paths=("pairs.jsonl",), seq_len=256, batch_size=8, heldout_fraction=0.1
        ),
        optimizer=config.OptimizerConfig(
            lr=2e-3, schedule=config.ScheduleConfig(name="cosine", warmup_steps=10)
        ),
        train=config.TrainConfig(
            num_steps=100,
            eval_interval_steps=20,
            eval_batches=4,
            z_loss_weight=0.0,
            balance_loss_weight=0.0,
            router_bias_rate=0.0,
        ),
    )
