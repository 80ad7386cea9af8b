"""Teaches a small model to say texts and to write down what is said, on a laptop.

    python -m kanana_jax.speech --out=speech                      toy speech, codec, conversations
    python -m kanana_jax.main --experiment=speech_small           the decoder
    python -m kanana_jax.evaluate.speech --checkpoint=...         what it hears and says

Each utterance is two conversations, one each way; codes of speech are tokens like any other.
"""

from kanana_jax import config
from kanana_jax.jobs import sft
from kanana_jax.model import presets

run = sft.run


def experiment() -> sft.Config:
    return sft.Config(
        name="speech_small",
        question="How well does the model predict what is said, and what was said?",
        model=presets.tiny(),
        execution=presets.LAPTOP,
        data=config.DataConfig(
            paths=("speech/train.jsonl",),
            tokenizer="speech/tokenizer.json",
            seq_len=512,
            batch_size=8,
            heldout_fraction=0.02,
        ),
        optimizer=config.OptimizerConfig(
            lr=2e-3, schedule=config.ScheduleConfig(name="cosine", warmup_steps=20)
        ),
        train=config.TrainConfig(num_steps=400, eval_interval_steps=100, eval_batches=4),
    )
