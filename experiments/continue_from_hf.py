"""Continues a Hugging Face checkpoint of the family with MuonClip on your own text.

    python -m kanana_jax.convert --from-hf=DOWNLOADED --to=imported
    python -m kanana_jax.main --experiment=continue_from_hf --set=data.paths=my.txt
    python -m kanana_jax.convert --from-run=runs/continue_from_hf/run --to=trained
    python -m kanana_jax.convert --from=trained --to-hf=exported --dtype=bfloat16

The shape below is replaced by that of the folder train.init_from.
"""

from kanana_jax import config
from kanana_jax.jobs import pretrain
from kanana_jax.model import presets

run = pretrain.run


def experiment() -> pretrain.Config:
    return pretrain.Config(
        name="continue_from_hf",
        question="What does MuonClip make of a published model on other text?",
        model=presets.tiny(),
        data=config.DataConfig(tokenizer="imported/tokenizer.json", seq_len=512, batch_size=8),
        optimizer=config.OptimizerConfig(
            lr=1e-4,
            schedule=config.ScheduleConfig(name="cosine", warmup_steps=20),
        ),
        train=config.TrainConfig(num_steps=200, init_from="imported"),
    )
