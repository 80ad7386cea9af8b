"""A narrower residual stream: entries of the hidden size that norms read least are cut everywhere.

An RMSNorm divides by the mean over its entries, so fewer entries come out larger. Where the D'
entries kept of D have the share r of the energy, its gain takes the factor sqrt(r D / D'): what is
kept comes out as before, on average.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from kanana_jax.config import ModelConfig
from kanana_jax.model.surgery import resizing
from kanana_jax.model.surgery.activations import Activations, Norm
from kanana_jax.model.transformer import Weights


def cut_hidden(cfg: ModelConfig, weights: Weights, seen: Activations, size: int) -> resizing.Cut:
    """Importance is the size of all norms' outputs, summed over layers."""
    resizing.expect_size(cfg, "hidden_size", size)
    resizing.expect_vector_gains(cfg, "hidden_size")
    norms = {"params/final_norm": seen.final_norm}
    for stack, leaves in seen.stacks.items():
        norms |= {f"params/{stack}/{k}": x for k, x in leaves.items() if isinstance(x, Norm)}
    sizes = [np.sqrt(one.size).reshape(-1, cfg.hidden_size) for one in norms.values()]
    score_D = np.concatenate(sizes).sum(axis=0)
    kept_D = resizing.best(score_D, size)
    new = dataclasses.replace(cfg, hidden_size=size)
    cut = resizing.resize(weights, new, {"": kept_D})

    def rescaled(path: tuple[Any, ...], gamma: np.ndarray) -> np.ndarray:
        one = norms.get(resizing.name_of(path))
        if one is None:
            return gamma
        energy = np.asarray(one.energy, np.float64)
        part = energy[..., kept_D].sum(axis=-1, keepdims=True)
        part = part / energy.sum(axis=-1, keepdims=True)
        return scaled_gamma(cfg, gamma, np.sqrt(part * cfg.hidden_size / size))

    cut = jax.tree_util.tree_map_with_path(rescaled, cut)
    return resizing.Cut(new, cut, resizing.share([score_D], [kept_D]))


def scaled_gamma(cfg: ModelConfig, gamma: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The gamma whose gain is `factor` times that of `gamma`."""
    centre = 1.0 if cfg.zero_centered_gamma else 0.0
    wide = np.asarray(gamma, np.float64)
    return ((wide + centre) * factor - centre).astype(gamma.dtype)
