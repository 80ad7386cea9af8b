"""fp8_parity on one H100 or H200: real MLA head sizes, bf16, about 70M parameters.

It reads the sources of installed packages, in BPE: some 25M tokens, of which a run takes 15M.

Every width of an expert is a multiple of 128, so Hopper's kernels multiply and quantise what XLA
rounds in the laptop version. The hidden size of a token's row is four blocks, not one.
"""

import dataclasses

from experiments import fp8_parity
from kanana_jax import config
from kanana_jax.jobs import sweep
from kanana_jax.model import presets

run = fp8_parity.run


def experiment() -> sweep.Sweep:
    comparison = fp8_parity.experiment()
    base = comparison.base
    base = dataclasses.replace(
        base,
        name="fp8_parity_h100",
        model=presets.small(),
        execution=config.ExecutionConfig(loss_chunk_tokens=16_384),
        data=config.DataConfig(
            paths=("python:packages",), tokenizer="bpe", seq_len=1024, batch_size=16
        ),
        optimizer=dataclasses.replace(
            base.optimizer,
            lr=0.01,
            polar_dtype="auto",
            schedule=config.ScheduleConfig(name="wsd", warmup_steps=20, decay_steps=300),
        ),
        train=dataclasses.replace(
            base.train,
            num_steps=900,
            eval_interval_steps=300,
            checkpoint_interval_steps=450,
        ),
    )
    return dataclasses.replace(comparison, base=base)
