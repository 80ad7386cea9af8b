"""Published shapes of the family, and tiny ones for a CPU. Values nobody published say "ours".

A vocab_size of 0 stands for the tokenizer's. init_std is ours everywhere: no base variance was
published for these runs.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from kanana_jax.config import ConfigError, ExecutionConfig, ModelConfig, YarnConfig

# CPUs emulate bfloat16, which takes longer than float32 there.
LAPTOP = ExecutionConfig(compute_dtype="float32")

# Kakao's override for 128K tokens; `dataclasses.replace(cfg, yarn=KANANA_2_YARN_128K)`.
KANANA_2_YARN_128K = YarnConfig(factor=4.0, original_max_positions=32_768)

# Heads, experts and routed_scaling_factor by width (arXiv:2608.20061, Table 3).
_KANANA_2_WIDTHS = {
    256: (4, 16, 2.428),
    512: (8, 32, 2.442),
    1024: (16, 64, 2.446),
    2048: (32, 128, 2.448),
}


def tiny(vocab_size: int = 0) -> ModelConfig:
    """About 1.1M parameters with every part of the family in place; all values are ours."""
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        num_layers=4,
        num_dense_layers=1,
        num_heads=4,
        q_lora_rank=None,
        kv_lora_rank=64,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        intermediate_size=256,
        moe_intermediate_size=64,
        num_experts=8,
        num_experts_per_token=2,
        num_shared_experts=1,
        routed_scaling_factor=1.410,  # Moonlight's gate-scaling formula for 2 of 8
    )


def tiny_family(hidden_size: int, vocab_size: int = 0) -> ModelConfig:
    """Two layers for comparing widths 32, 64, 128, ... on a CPU; all values are ours.

    One head and 4 experts at width 32, a token going to 2 of them at every width.
    """
    widest = dataclasses.replace(tiny(vocab_size), num_layers=2, num_experts=16)
    grown = family(widest, hidden_size)
    scaling = gate_scaling(grown.num_experts, grown.num_experts_per_token)
    return dataclasses.replace(grown, routed_scaling_factor=scaling)


def small(vocab_size: int = 0) -> ModelConfig:
    """About 70M parameters with the head sizes of the family, for one GPU; all values are ours."""
    return ModelConfig(
        vocab_size=vocab_size,
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


def kanana_2_30b_a3b() -> ModelConfig:
    """Kanana-2-30B-A3B: 30,670,809,088 parameters, 3.614B of them active."""
    return kanana_2_width(2048)


def kanana_2_width(hidden_size: int) -> ModelConfig:
    """The 48-layer family in which heads and experts grow with the width 256, 512, 1024 or 2048."""
    if hidden_size not in _KANANA_2_WIDTHS:
        widths = ", ".join(map(str, _KANANA_2_WIDTHS))
        raise ConfigError(f"kanana_2_width takes one of {widths}; got {hidden_size}")
    num_heads, num_experts, scaling = _KANANA_2_WIDTHS[hidden_size]
    return ModelConfig(
        vocab_size=128_256,
        hidden_size=hidden_size,
        num_layers=48,
        num_dense_layers=1,
        num_heads=num_heads,
        q_lora_rank=None,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        intermediate_size=6144,
        moe_intermediate_size=768,
        num_experts=num_experts,
        num_experts_per_token=6,
        num_shared_experts=2,
        routed_scaling_factor=scaling,
        rope_theta=50_000.0,  # ours: not published; Moonlight's, as are the next four
        rms_norm_eps=1e-5,
        num_expert_groups=1,
        num_groups_per_token=1,
        norm_topk_prob=True,
    )


def family(base: ModelConfig, hidden_size: int, num_layers: int | None = None) -> ModelConfig:
    """`base` at another width, and depth: heads and experts grow with the width.

    Sizes of heads, latents and experts, the dense layers' MLP and the experts of a token are fixed
    (arXiv:2608.20061, sec. 2.1); the routed scaling follows the number of experts. Raises
    ConfigError where a number would not be whole, or fewer experts than a token needs.
    """
    counts = {"num_heads": base.num_heads, "num_kv_heads": base.num_kv_heads}
    if base.num_moe_layers:
        counts["num_experts"] = base.num_experts
    grown: dict[str, Any] = {"hidden_size": hidden_size}
    for name, count in counts.items():
        if count is None:
            continue
        grown[name], left = divmod(count * hidden_size, base.hidden_size)
        if left or not grown[name]:
            raise ConfigError(
                f"model.{name} = {count} at width {base.hidden_size} is no whole number at width "
                f"{hidden_size}; take a width that makes it one"
            )
    if grown.get("num_experts", base.num_experts) < base.num_experts_per_token:
        raise ConfigError(
            f"width {hidden_size} would have {grown['num_experts']} experts, and a token goes to "
            f"{base.num_experts_per_token}; take a larger width"
        )
    if grown.get("num_experts", base.num_experts) != base.num_experts and base.norm_topk_prob:
        grown["routed_scaling_factor"] = gate_scaling(
            grown["num_experts"], base.num_experts_per_token
        )
    if num_layers is not None:
        grown["num_layers"] = num_layers
    return dataclasses.replace(base, **grown)


@functools.cache
def gate_scaling(num_experts: int, top_k: int) -> float:
    """1 / RMS norm of the weights of the chosen experts at the start (arXiv:2502.16982, app.).

    Routed outputs then add up to about as much as one expert's. Sampled, so to three digits.
    """
    logits = np.random.default_rng(0).standard_normal((20_000, num_experts))
    scores = np.sort(1.0 / (1.0 + np.exp(-logits)), axis=1)[:, -top_k:]
    weights = scores / scores.sum(axis=1, keepdims=True)
    return round(float(((weights**2).sum(axis=1) ** -0.5).mean()), 3)


def kanana_2_155b_a17b() -> ModelConfig:
    """APPROXIMATE: 156.8B total, 16.3B active where 155B and 17B are published.

    Layers, width, heads, experts, the sum of active expert widths and the scaling are published
    (arXiv:2608.20061, Table 3); no choice of the rest gives both published counts.
    """
    return ModelConfig(
        vocab_size=128_256,  # ours: the 30B model's
        hidden_size=4096,
        num_layers=62,
        num_dense_layers=1,
        num_heads=64,
        q_lora_rank=None,  # ours; 1536 would give 155.2B total but 14.75B active
        kv_lora_rank=512,  # ours
        qk_nope_head_dim=128,  # ours
        qk_rope_head_dim=64,  # ours
        v_head_dim=128,  # ours
        intermediate_size=12_288,
        moe_intermediate_size=1536,  # ours: 12288 = (6 + 2) x 1536
        num_experts=128,
        num_experts_per_token=6,  # ours: what the scaling 2.448 implies
        num_shared_experts=2,  # ours
        routed_scaling_factor=2.448,
        rope_theta=50_000.0,  # ours
        rms_norm_eps=1e-5,  # ours
    )


def moonlight_16b_a3b() -> ModelConfig:
    """Moonlight-16B-A3B (arXiv:2502.16982), from its published config."""
    return ModelConfig(
        vocab_size=163_840,
        hidden_size=2048,
        num_layers=27,
        num_dense_layers=1,
        num_heads=16,
        q_lora_rank=None,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        intermediate_size=11_264,
        moe_intermediate_size=1408,
        num_experts=64,
        num_experts_per_token=6,
        num_shared_experts=2,
        routed_scaling_factor=2.446,
        rope_theta=50_000.0,
        rms_norm_eps=1e-5,
    )


def kimi_k2_1t_a32b() -> ModelConfig:
    """Kimi K2 (arXiv:2507.20534), from its published config with the 128K context."""
    return ModelConfig(
        vocab_size=163_840,
        hidden_size=7168,
        num_layers=61,
        num_dense_layers=1,
        num_heads=64,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        intermediate_size=18_432,
        moe_intermediate_size=2048,
        num_experts=384,
        num_experts_per_token=8,
        num_shared_experts=1,
        routed_scaling_factor=2.827,
        rope_theta=50_000.0,
        yarn=YarnConfig(factor=32.0, original_max_positions=4096, beta_fast=1.0, beta_slow=1.0),
        rms_norm_eps=1e-6,
    )


def deepseek_v3() -> ModelConfig:
    """DeepSeek-V3 (arXiv:2412.19437), from its published config, without the extra predictor."""
    return ModelConfig(
        vocab_size=129_280,
        hidden_size=7168,
        num_layers=61,
        num_dense_layers=3,
        num_heads=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        intermediate_size=18_432,
        moe_intermediate_size=2048,
        num_experts=256,
        num_experts_per_token=8,
        num_shared_experts=1,
        num_expert_groups=8,
        num_groups_per_token=4,
        routed_scaling_factor=2.5,
        rope_theta=10_000.0,
        yarn=YarnConfig(factor=40.0, original_max_positions=4096),
        rms_norm_eps=1e-6,
    )


def kanana_nano_2_1b() -> ModelConfig:
    """Kanana-Nano-2.1B (arXiv:2502.18934, sec. 2.4): Kanana-8B pruned in width, embeddings tied.

    The report has no widths. These are ours until they are compared with the released config.json;
    they come to 2,086,979,328 parameters, where 2.1B is published.
    """
    return _llama_3(
        hidden_size=1792,  # ours
        num_layers=32,  # Kanana-8B's: it was pruned in width only
        num_heads=24,  # ours
        intermediate_size=8064,  # ours
        tie_embeddings=True,
    )


def kanana_8b() -> ModelConfig:
    """Kanana-8B (arXiv:2502.18934): the architecture and tokenizer of Llama-3-8B."""
    return _llama_3(hidden_size=4096, num_layers=32, num_heads=32, intermediate_size=14_336)


def kanana_9_8b() -> ModelConfig:
    """Kanana-9.8B (arXiv:2502.18934): Kanana-8B with more layers.

    Their number is ours: it was not published, and 9.8B parameters come to 40 layers.
    """
    return dataclasses.replace(kanana_8b(), num_layers=40, num_dense_layers=40)


def _llama_3(**sizes: Any) -> ModelConfig:
    """Llama 3 (arXiv:2407.21783, Table 3) with 8 key heads of 128, before any context extension."""
    return ModelConfig(
        vocab_size=128_256,
        num_dense_layers=sizes["num_layers"],
        num_kv_heads=8,
        q_lora_rank=None,
        kv_lora_rank=None,
        qk_nope_head_dim=0,
        qk_rope_head_dim=128,
        v_head_dim=128,
        rope_theta=500_000.0,
        rms_norm_eps=1e-5,
        **sizes,
    )


def kanana_2_3b() -> ModelConfig:
    """Kanana-2-3B, of Qwen 3's architecture: 3,508,972,032 parameters where 3,509M are published.

    The vocabulary and the per-head norms are published too; every width is ours.
    """
    return ModelConfig(
        vocab_size=128_256,
        hidden_size=2560,  # ours
        num_layers=32,  # ours
        num_dense_layers=32,
        num_heads=32,  # ours
        num_kv_heads=8,  # ours
        qk_norm=True,
        q_lora_rank=None,
        kv_lora_rank=None,
        qk_nope_head_dim=0,
        qk_rope_head_dim=128,  # ours: Qwen 3's
        v_head_dim=128,
        intermediate_size=8192,  # ours
        rope_theta=1_000_000.0,  # ours: Qwen 3's, as is the next
        rms_norm_eps=1e-6,
    )
