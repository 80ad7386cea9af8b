"""Direct preference optimization of a small model on your own pairs, on a laptop.

    python -m kanana_jax.main --experiment=preference_small --set=data.paths=pairs.jsonl

A line of the file: {"prompt": "...", "chosen": "...", "rejected": "..."}. The model and the frozen
reference start from scratch; --set=train.init_from=FOLDER takes both from a model folder.
"""

from kanana_jax import config
from kanana_jax.jobs import preference
from kanana_jax.model import presets

run = preference.run


def experiment() -> preference.Config:
    return preference.Config(
        name="preference_small",
        question="Does the model learn which answer of a held-out pair is preferred?",
        model=presets.tiny(),
        execution=presets.LAPTOP,
        data=config.DataConfig(
            paths=("pairs.jsonl",), seq_len=256, batch_size=8, heldout_fraction=0.1
        ),
        optimizer=config.OptimizerConfig(
            lr=5e-4, schedule=config.ScheduleConfig(name="cosine", warmup_steps=10)
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
