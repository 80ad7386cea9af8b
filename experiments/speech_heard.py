"""Teaches a small model with an encoder of sounds to write down what is said, on a laptop.

    python -m kanana_jax.speech --out=speech                      toy speech as files
    python -m kanana_jax.main --experiment=speech_heard           encoder and decoder
    python -m kanana_jax.evaluate.speech --checkpoint=... --conversations=speech/heard/heldout.jsonl

Compare it with `speech_small`, whose decoder hears codes of a small codec, 25 a second.
"""

import dataclasses

from kanana_jax import config
from kanana_jax.jobs import sound_chats
from kanana_jax.model import presets

run = sound_chats.run

_ENCODER = config.AudioConfig(hidden_size=96, num_layers=3, num_heads=3, intermediate_size=384)


def experiment() -> sound_chats.Config:
    return sound_chats.Config(
        name="speech_heard",
        question="How well does the model predict what was said?",
        model=dataclasses.replace(presets.tiny(), audio=_ENCODER),
        execution=presets.LAPTOP,
        data=config.DataConfig(
            paths=("speech/heard/train.jsonl",),
            tokenizer="speech/tokenizer.json",
            seq_len=256,
            batch_size=8,
            sounds=5,
            sound_frames=500,
            heldout_fraction=0.02,
        ),
        optimizer=config.OptimizerConfig(
            lr=0.01, schedule=config.ScheduleConfig(name="cosine", warmup_steps=20)
        ),
        train=config.TrainConfig(num_steps=400, eval_interval_steps=100, eval_batches=4),
    )
