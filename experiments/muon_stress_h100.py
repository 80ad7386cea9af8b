"""muon_stress on one H100: real MLA head sizes, BPE tokens, bf16, about 70M parameters."""

import dataclasses

from experiments import muon_stress
from kanana_jax import config
from kanana_jax.jobs import sweep

run = muon_stress.run


def experiment() -> sweep.Sweep:
    comparison = muon_stress.experiment()
    base = comparison.base
    model = config.ModelConfig(
        vocab_size=0,
        hidden_size=512,
        num_layers=8,
        num_dense_layers=1,
        num_heads=8,
        q_lora_rank=None,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        intermediate_size=1536,
        moe_intermediate_size=384,
        num_experts=8,
        num_experts_per_token=2,
        num_shared_experts=1,
        routed_scaling_factor=1.41,
    )
    base = dataclasses.replace(
        base,
        name="muon_stress_h100",
        model=model,
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
