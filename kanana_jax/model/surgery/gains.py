"""Gains of RMSNorms: written as vectors for any model, or folded into the matrices behind them.

    norm(x) W = (x / rms(x) * g) W = x / rms(x) (diag(g) W)

What reads a norm is linear in its output, so a gain adds nothing that the matrices behind it could
not express; it changes how they train. Norms of heads (`qk_norm`) stay: a rotation stands between
them and what reads them. Arrays are numpy's or JAX's, and stay so except where vectors are made.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from kanana_jax.config import ConfigError, ModelConfig
from kanana_jax.model.surgery import resizing
from kanana_jax.model.transformer import Params, Weights

# Leaves by the class of their norm.
CLASSES = {
    "input": "attention_norm",
    "post_attention": "mlp_norm",
    "q_latent": "q_norm",
    "kv_latent": "kv_norm",
    "final": "final_norm",
}


def by_class(cfg: ModelConfig, weights: Weights) -> dict[str, list[Any]]:
    """The gains of norms: (L, D) or (L, 1) of each stack. Classes without any are left out."""
    found: dict[str, list[Any]] = {}
    for name, leaf in CLASSES.items():
        gains = [_gain(cfg, x) for path, x in resizing.flat(weights) if _last(path) == leaf]
        if gains:
            found[name] = gains
    return found


def with_vector_gains(cfg: ModelConfig, weights: Weights) -> tuple[ModelConfig, Weights]:
    """The same model with a number for each entry, multiplied as it is, as any program reads it."""
    new = dataclasses.replace(cfg, norm_gain="vector", zero_centered_gamma=False)
    old = dict(resizing.flat(weights))

    def leaf(path: tuple[Any, ...], wanted: jax.ShapeDtypeStruct) -> Any:
        name = resizing.name_of(path)
        if _last(name) not in CLASSES.values():
            return old[name]
        gain = _gain(cfg, np.asarray(old[name], np.float32)) if name in old else np.float32(1.0)
        return np.broadcast_to(gain, wanted.shape).copy()

    made = jax.tree_util.tree_map_with_path(leaf, resizing.shapes(new))
    return new, weights._replace(params=made.params)


def drop_gains(cfg: ModelConfig, weights: Weights) -> Weights:
    """With every gain 1 and nothing to make up for it: another function, unless all were 1."""
    unit = 0.0 if cfg.zero_centered_gamma else 1.0

    def leaf(path: tuple[Any, ...], x: Any) -> Any:
        is_gain = _last(resizing.name_of(path)) in CLASSES.values()
        return x * 0 + unit if is_gain else x

    params = jax.tree_util.tree_map_with_path(leaf, weights.params)
    return weights._replace(params=params)


def fold_gains(cfg: ModelConfig, weights: Weights) -> Weights:
    """The same function with every gain 1: each multiplies the rows of the matrices behind it.

    Raises ConfigError where the embedding is the head, and where matrices have adapters.
    """
    if cfg.tie_embeddings or weights.adapters is not None:
        raise ConfigError(
            "gains are taken into whole matrices and a head of its own, got tie_embeddings "
            f"{cfg.tie_embeddings}, {'no ' if weights.adapters is None else ''}adapters"
        )
    params = dict(weights.params)
    for name in ("dense_layers", "moe_layers"):
        if name in params:
            params[name] = _folded_stack(cfg, params[name])
    params = _folded(cfg, params.get("final_norm"), params, {"head": 0, "scalar_head": 0})
    return drop_gains(cfg, weights._replace(params=params))


def _folded_stack(cfg: ModelConfig, stack: Params) -> Params:
    attention, mlp = stack["attention"], stack["mlp"]
    latents = (attention.get("q_norm"), "wq_b"), (attention.get("kv_norm"), "wkv_b")
    readers: dict[str, int] = dict.fromkeys(("wq", "wq_a", "wk", "wv", "wkv_a"), 1)
    attention = _folded(cfg, stack.get("attention_norm"), attention, readers)
    for gamma, reader in latents:
        attention = _folded(cfg, gamma, attention, {reader: 1})
    of_mlp = stack.get("mlp_norm")
    mlp = _folded(cfg, of_mlp, mlp, {"router": 1, "w_gate_up": -1})
    if "shared" in mlp:
        mlp["shared"] = _folded(cfg, of_mlp, mlp["shared"], {"w_gate_up": -1})
    return stack | {"attention": attention, "mlp": mlp}


def _folded(cfg: ModelConfig, gamma: Any, holder: Params, axes: dict[str, int]) -> Params:
    """`holder` with the leaves of `axes`, where it has them, times the gain along their axis."""
    if gamma is None:
        return dict(holder)
    gain, made = _gain(cfg, gamma), dict(holder)
    lead = gain.shape[:-1]  # the layers of a stack, which its matrices have first too
    for name, axis in axes.items():
        if name in made:
            matrix = made[name]
            at = axis % matrix.ndim
            before, after = at - len(lead), matrix.ndim - at - 1
            shape = (*lead, *[1] * before, gain.shape[-1], *[1] * after)
            made[name] = (matrix * gain.reshape(shape)).astype(matrix.dtype)
    return made


def _gain(cfg: ModelConfig, gamma: Any) -> Any:
    return gamma + 1.0 if cfg.zero_centered_gamma else gamma


def _last(path: str) -> str:
    return path.rpartition("/")[2]
