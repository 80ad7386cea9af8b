"""lr_transfer on one H100 or H200: widths 128 to 1024, real MLA head sizes, BPE and bf16.

One dense layer and three of experts; heads and experts grow with the width, from 4 to 32 experts.
It compares no rule with the two that disagree about W_q and W_o.
"""

import dataclasses

from experiments import lr_transfer
from kanana_jax import config
from kanana_jax.jobs import sweep
from kanana_jax.model import presets

WIDTHS = 128, 256, 512, 1024
RULES = "kakao", "spectral", "none"
RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)

run = lr_transfer.run


def shape(width: int) -> config.ModelConfig:
    """A model of the family at a width."""
    widest = dataclasses.replace(presets.small(), num_layers=4, num_experts=16)
    grown = presets.family(widest, width)
    scaling = presets.gate_scaling(grown.num_experts, grown.num_experts_per_token)
    return dataclasses.replace(grown, routed_scaling_factor=scaling)


def experiment() -> sweep.Sweep:
    comparison = lr_transfer.experiment()
    base = dataclasses.replace(
        comparison.base,
        name="lr_transfer_h100",
        model=shape(WIDTHS[0]),
        execution=config.ExecutionConfig(loss_chunk_tokens=16_384),
        data=config.DataConfig(
            paths=("python:packages",), tokenizer="bpe", seq_len=512, batch_size=32
        ),
        optimizer=dataclasses.replace(comparison.base.optimizer, polar_dtype="auto"),
    )
    arms = lr_transfer.arms(shape, WIDTHS, RULES)
    return dataclasses.replace(
        comparison, base=base, arms=arms, axes=(sweep.Axis("optimizer.lr", RATES),)
    )
