"""vision_hybrid on one H100: an encoder of 5M parameters and a decoder of 15M, bf16."""

from experiments import vision_hybrid
from experiments.vision_hybrid import settings
from kanana_jax import config
from kanana_jax.jobs import sweep

SIZE = settings.Size(
    model=config.ModelConfig(
        vocab_size=0,
        hidden_size=384,
        num_layers=6,
        num_dense_layers=1,
        num_heads=6,
        q_lora_rank=None,
        kv_lora_rank=128,
        qk_nope_head_dim=64,
        qk_rope_head_dim=64,
        v_head_dim=128,
        intermediate_size=1024,
        moe_intermediate_size=128,
        num_experts=16,
        num_experts_per_token=4,
        num_shared_experts=1,
        routed_scaling_factor=1.991,  # Moonlight's gate-scaling formula for 4 of 16
        rope_theta=10_000.0,
        vision=config.VisionConfig(
            patch_size=8,
            num_channels=1,
            hidden_size=256,
            num_layers=6,
            num_heads=4,
            intermediate_size=1024,
            position_grid=20,
        ),
    ),
    execution=config.ExecutionConfig(loss_chunk_tokens=16_384),
    data=config.DataConfig(seq_len=640, batch_size=64, image_patches=1280),
    images=config.ImageTasksConfig(num_workers=14, num_measured=128, num_rows=64),
    # Reading begins suddenly, after 1000 steps or more at the full rate, which then falls.
    num_steps=4000,
    lr=0.004,
    polar_dtype="auto",
    eval_batches=4,
)

run = vision_hybrid.run


def experiment() -> sweep.Sweep:
    return settings.comparison("vision_hybrid_h100", SIZE)
