"""prune_distill on one H100 or H200: about 70M parameters with latents of queries, BPE and bf16."""

import dataclasses

from experiments import prune_distill
from experiments.prune_distill import settings
from kanana_jax import config
from kanana_jax.jobs import pipeline
from kanana_jax.model import presets

_TRAINING = settings.Training(
    execution=config.ExecutionConfig(loss_chunk_tokens=16_384),
    data=config.DataConfig(
        paths=("python:packages",), tokenizer="bpe", seq_len=1024, batch_size=16
    ),
    fresh_lr=0.01,
    cut_lr=0.005,
    warmup_steps=20,
)
_SHAPE = dataclasses.replace(presets.small(), q_lora_rank=512, num_shared_experts=2)
_LEFT = {
    "hidden_size": 384,
    "num_heads": 6,
    "intermediate_size": 768,
    "moe_intermediate_size": 192,
}

run = prune_distill.run


def experiment() -> pipeline.Pipeline:
    sizes = {"base_steps": 1000, "taught_steps": 100}
    return prune_distill.compared("prune_distill_h100", _TRAINING, _SHAPE, _LEFT, **sizes)
