"""muon_stress on one H100: real MLA head sizes, BPE tokens, bf16, about 70M parameters."""

import dataclasses

from experiments import muon_stress
from kanana_jax import config
from kanana_jax.jobs import sweep
from kanana_jax.model import presets

run = muon_stress.run


def experiment() -> sweep.Sweep:
    comparison = muon_stress.experiment()
    base = comparison.base
    base = dataclasses.replace(
        base,
        name="muon_stress_h100",
        model=presets.small(),
        execution=config.ExecutionConfig(loss_chunk_tokens=16_384),
        data=config.DataConfig(tokenizer="bpe", seq_len=1024, batch_size=16),
        optimizer=dataclasses.replace(
            base.optimizer,
            polar_dtype="auto",
            schedule=config.ScheduleConfig(name="wsd", warmup_steps=20, decay_steps=40),
        ),
        train=dataclasses.replace(
            base.train,
            num_steps=160,
            eval_interval_steps=40,
            checkpoint_interval_steps=80,
        ),
    )
    rates = sweep.Axis("optimizer.lr", (0.003, 0.01))
    return dataclasses.replace(comparison, base=base, axes=(rates,))
