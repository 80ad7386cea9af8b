"""Narrower MLPs: the smallest entries behind the activation are cut, in each layer by itself.

Importance is the mean of |silu(gate) up|. An expert keeps entries of its own; shared experts are
one MLP, whose width is their number times an expert's.
"""

import dataclasses

import numpy as np

from kanana_jax.config import ModelConfig
from kanana_jax.model.surgery import resizing
from kanana_jax.model.surgery.activations import Activations
from kanana_jax.model.transformer import Weights

_DENSE, _EXPERTS, _SHARED = (
    "params/dense_layers/mlp",
    "params/moe_layers/mlp",
    "params/moe_layers/mlp/shared",
)


def cut_dense_width(
    cfg: ModelConfig, weights: Weights, seen: Activations, size: int
) -> resizing.Cut:
    """Cuts the width of the dense layers."""
    resizing.expect_part(cfg, "intermediate_size", cfg.num_dense_layers)
    resizing.expect_size(cfg, "intermediate_size", size)
    score_LI = np.sqrt(seen.stacks["dense_layers"]["mlp"])
    kept_LI = resizing.best(score_LI, size)
    new = dataclasses.replace(cfg, intermediate_size=size)
    cut = resizing.resize(weights, new, {_DENSE: kept_LI})
    return resizing.Cut(new, cut, resizing.share([score_LI], [kept_LI]))


def cut_expert_width(
    cfg: ModelConfig, weights: Weights, seen: Activations, size: int
) -> resizing.Cut:
    """Cuts the width of experts, and with it that of the shared ones."""
    resizing.expect_part(cfg, "moe_intermediate_size", cfg.num_moe_layers)
    resizing.expect_size(cfg, "moe_intermediate_size", size)
    found = seen.stacks["moe_layers"]
    tokens_LE1 = np.maximum(found["expert_tokens"], 1.0)[..., None]
    scores = {_EXPERTS: np.asarray(found["experts"]) / tokens_LE1}
    kept = {_EXPERTS: resizing.best(scores[_EXPERTS], size)}
    if cfg.num_shared_experts:
        scores[_SHARED] = np.sqrt(found["shared"])
        kept[_SHARED] = resizing.best(scores[_SHARED], cfg.num_shared_experts * size)
    new = dataclasses.replace(cfg, moe_intermediate_size=size)
    cut = resizing.resize(weights, new, kept)
    return resizing.Cut(new, cut, resizing.share([*scores.values()], [*kept.values()]))


def cut_shared(cfg: ModelConfig, weights: Weights, seen: Activations, size: int) -> resizing.Cut:
    """Keeps the best entries of all shared experts, as many as `size` experts are wide."""
    resizing.expect_part(cfg, "num_shared_experts", cfg.num_moe_layers * cfg.num_shared_experts)
    resizing.expect_size(cfg, "num_shared_experts", size, lowest=0)
    new = dataclasses.replace(cfg, num_shared_experts=size)
    score_LI = np.sqrt(seen.stacks["moe_layers"]["shared"])
    kept_LI = resizing.best(score_LI, size * cfg.moe_intermediate_size)
    cut = resizing.resize(weights, new, {_SHARED: kept_LI})
    return resizing.Cut(new, cut, resizing.share([score_LI], [kept_LI]))
