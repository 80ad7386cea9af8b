"""depth_upscaling on one H100 or H200: 8 layers become 12, from 70M parameters, BPE, bf16.

It reads the sources of installed packages: some 25M tokens, of which the longest run takes 21M.
"""

from experiments import depth_upscaling
from experiments.depth_upscaling import settings
from kanana_jax import config
from kanana_jax.jobs import pipeline
from kanana_jax.model import presets

run = depth_upscaling.run


def experiment() -> pipeline.Pipeline:
    text = config.DataConfig(
        paths=("python:packages",), tokenizer="bpe", seq_len=1024, batch_size=16
    )
    size = settings.Size(
        parent=presets.small(vocab_size=text.bpe_vocab_size),
        num_layers=12,
        execution=config.ExecutionConfig(loss_chunk_tokens=16_384),
        data=text,
        lr=0.01,
        polar_dtype="auto",
        warmup_steps=20,
        parent_steps=800,
        grown_steps=300,
        decay_steps=120,
    )
    return settings.compared("depth_upscaling_h100", size)
