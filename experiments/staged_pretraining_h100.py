"""staged_pretraining on one H100: about 70M parameters, BPE tokens, bf16."""

import dataclasses

from experiments import staged_pretraining
from kanana_jax import config
from kanana_jax.jobs import sweep
from kanana_jax.model import presets

run = staged_pretraining.run


def experiment() -> sweep.Sweep:
    num_steps = 400
    comparison = staged_pretraining.compared(presets.small(), 1024, 16, num_steps)
    base = comparison.base
    base = dataclasses.replace(
        base,
        name="staged_pretraining_h100",
        execution=config.ExecutionConfig(loss_chunk_tokens=16_384),
        data=dataclasses.replace(base.data, tokenizer="bpe"),
        optimizer=dataclasses.replace(base.optimizer, lr=0.003, polar_dtype="auto"),
        train=dataclasses.replace(
            base.train,
            eval_interval_steps=100,
            eval_batches=16,
            diagnostics_interval_steps=100,
            checkpoint_interval_steps=num_steps,
        ),
    )
    return dataclasses.replace(comparison, base=base)
