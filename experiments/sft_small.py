"""Fine-tunes a small model on your own conversations, on a laptop.

    python -m kanana_jax.main --experiment=sft_small --set=data.paths=conversations.jsonl

A line of the file: {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}.
The model starts from scratch; --set=train.init_from=FOLDER takes the weights, the shape and, with
--set=data.tokenizer=FOLDER/tokenizer.json, the tokenizer of a model folder.
"""

from kanana_jax import config
from kanana_jax.jobs import sft
from kanana_jax.model import presets

run = sft.run


def experiment() -> sft.Config:
    return sft.Config(
        name="sft_small",
        question="How well does the model predict the assistant's turns of held-out conversations?",
        model=presets.tiny(),
        execution=presets.LAPTOP,
        data=config.DataConfig(
            paths=("conversations.jsonl",), seq_len=256, batch_size=8, heldout_fraction=0.1
        ),
        optimizer=config.OptimizerConfig(
            lr=2e-3, schedule=config.ScheduleConfig(name="cosine", warmup_steps=10)
        ),
        train=config.TrainConfig(num_steps=200, eval_interval_steps=20, eval_batches=4),
    )
