"""Fewer experts, or each of them several times; the router's columns and its bias go with them.

    reap         mean over an expert's tokens of router weight times |output| (arXiv:2510.13999)
    frequency    tokens
    random       what a score that knows nothing of the model would give

Twice the experts, with twice as many per token, give what one set did: the copies of a token's
experts have the same scores, and the weights halve (arXiv:2510.08008). Copies that are alike have
equal gradients and stay alike; noise is there to prevent that.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np

from kanana_jax.config import ConfigError, ModelConfig
from kanana_jax.model.surgery import resizing
from kanana_jax.model.surgery.activations import Activations
from kanana_jax.model.transformer import Weights

Score = Callable[[Activations], np.ndarray]  # (L, E), higher for what is to stay
_PATHS = "params/moe_layers/mlp", "buffers"


def reap(seen: Activations) -> np.ndarray:
    found = seen.stacks["moe_layers"]
    return np.asarray(found["expert_added"] / np.maximum(found["expert_tokens"], 1.0))


def frequency(seen: Activations) -> np.ndarray:
    return np.asarray(seen.stacks["moe_layers"]["expert_tokens"])


def random(seen: Activations, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(frequency(seen).shape)


SCORES: Mapping[str, Score] = {"reap": reap, "frequency": frequency, "random": random}


def cut_experts(
    cfg: ModelConfig, weights: Weights, seen: Activations, size: int, score: Score = reap
) -> resizing.Cut:
    """Keeps equally many experts of each group; each layer by itself."""
    resizing.expect_part(cfg, "num_experts", cfg.num_moe_layers)
    resizing.expect_size(cfg, "num_experts", size, step=cfg.num_expert_groups)
    new = dataclasses.replace(cfg, num_experts=size)
    score_LE = score(seen)
    kept_LE = resizing.best(score_LE, size, cfg.num_expert_groups)
    cut = resizing.resize(weights, new, dict.fromkeys(_PATHS, kept_LE))
    return resizing.Cut(new, cut, resizing.share([score_LE], [kept_LE]))


def duplicate_experts(
    cfg: ModelConfig, weights: Weights, times: int, *, noise: float = 0.0, seed: int = 0
) -> tuple[ModelConfig, Weights]:
    """Every expert `times` times, and `times` times as many experts per token.

    `noise` is that of the copies' weights, relative to a leaf's standard deviation. Groups of
    experts are repeated whole, so that those that a token had are still its best.
    """
    if times < 2 or not cfg.num_moe_layers:
        raise ConfigError(
            f"experts must be there at least 2 times, and in some layers; got {times}, and "
            f"{cfg.num_moe_layers} layers with experts"
        )
    is_limited = cfg.num_groups_per_token < cfg.num_expert_groups
    groups = times if is_limited else 1
    new = dataclasses.replace(
        cfg,
        num_experts=times * cfg.num_experts,
        num_experts_per_token=times * cfg.num_experts_per_token,
        num_expert_groups=groups * cfg.num_expert_groups,
        num_groups_per_token=groups * cfg.num_groups_per_token,
        routed_scaling_factor=cfg.routed_scaling_factor / (1 if cfg.norm_topk_prob else times),
    )
    repeated_E = np.tile(np.arange(cfg.num_experts), times)
    grown = resizing.resize(weights, new, dict.fromkeys(_PATHS, repeated_E))
    if not noise:
        return new, grown
    return new, grown._replace(params=_with_noise(cfg, new, grown, noise, seed))


def _with_noise(
    cfg: ModelConfig, new: ModelConfig, grown: Weights, noise: float, seed: int
) -> dict:
    """Normal noise on the copies' own weights, none on the originals."""
    rng = np.random.default_rng(seed)

    def disturbed(x: np.ndarray, before: jax.ShapeDtypeStruct) -> np.ndarray:
        axes = [i for i, (m, n) in enumerate(zip(x.shape, before.shape, strict=True)) if m != n]
        if not axes:
            return x
        by_expert = np.moveaxis(x, axes[0], 0).copy()
        copies = by_expert[cfg.num_experts :]
        size = noise * x.astype(np.float32).std()
        copies += (size * rng.standard_normal(copies.shape, np.float32)).astype(x.dtype)
        return np.moveaxis(by_expert, 0, axes[0])

    return jax.tree.map(disturbed, grown.params, resizing.shapes(cfg).params)
