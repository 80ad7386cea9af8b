"""Models made from models: growth and cuts, (cfg, weights) -> (cfg, weights), on the host.

A cut asks the `Activations` of calibration text which entries matter; a growth asks nothing. What
comes out is a model like any other: weights are numpy arrays, the config says all about the shape.
"""

from collections.abc import Callable, Mapping

from kanana_jax.config import ModelConfig
from kanana_jax.model.surgery import depth, heads, hidden, latents, widths
from kanana_jax.model.surgery.activations import Activations, observe
from kanana_jax.model.surgery.depth import interpose, stack, with_layers
from kanana_jax.model.surgery.experts import SCORES, Score, cut_experts, duplicate_experts
from kanana_jax.model.surgery.gains import by_class, drop_gains, fold_gains, with_vector_gains
from kanana_jax.model.surgery.resizing import Cut
from kanana_jax.model.transformer import Weights

# By the field of ModelConfig that the cut makes smaller.
CUTS: Mapping[str, Callable[[ModelConfig, Weights, Activations, int], Cut]] = {
    "num_layers": depth.cut_layers,
    "hidden_size": hidden.cut_hidden,
    "num_heads": heads.cut_heads,
    "kv_lora_rank": latents.cut_kv_rank,
    "q_lora_rank": latents.cut_q_rank,
    "intermediate_size": widths.cut_dense_width,
    "moe_intermediate_size": widths.cut_expert_width,
    "num_experts": cut_experts,
    "num_shared_experts": widths.cut_shared,
}

__all__ = [
    "CUTS",
    "SCORES",
    "Activations",
    "Cut",
    "Score",
    "by_class",
    "cut_experts",
    "drop_gains",
    "duplicate_experts",
    "fold_gains",
    "interpose",
    "observe",
    "stack",
    "with_layers",
    "with_vector_gains",
]
