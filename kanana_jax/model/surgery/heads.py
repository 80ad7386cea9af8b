"""Fewer attention heads: those that add least to the residual stream are cut.

In latent attention a head's queries, its columns of W_kvb and its rows of W_o go together; all
heads share the rotary key. In grouped-query attention each key head loses equally many of its query
heads (arXiv:2502.18934); a key head with a single query head goes with it.
"""

import dataclasses

import numpy as np

from kanana_jax.config import ModelConfig
from kanana_jax.model.surgery import resizing
from kanana_jax.model.surgery.activations import Activations
from kanana_jax.model.transformer import Weights


def cut_heads(cfg: ModelConfig, weights: Weights, seen: Activations, size: int) -> resizing.Cut:
    """Importance is the size of W_o's output for the head, in each layer by itself."""
    kv_heads = cfg.num_kv_heads
    groups, new_kv_heads = kv_heads or 1, kv_heads
    if kv_heads == cfg.num_heads:
        groups, new_kv_heads = 1, size
    resizing.expect_size(cfg, "num_heads", size, step=groups)
    new = dataclasses.replace(cfg, num_heads=size, num_kv_heads=new_kv_heads)
    scores = {
        f"params/{stack}/attention": np.sqrt(leaves["heads"])
        for stack, leaves in seen.stacks.items()
    }
    kept = {name: resizing.best(score_LH, size, groups) for name, score_LH in scores.items()}
    cut = resizing.resize(weights, new, kept)
    return resizing.Cut(new, cut, resizing.share([*scores.values()], [*kept.values()]))
