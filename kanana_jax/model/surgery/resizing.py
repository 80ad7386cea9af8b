"""A change of shape as entries taken along axes; the shapes themselves say which axes.

    new[..., i, ...] = old[..., entries[i], ...]     along each axis that the new shape resizes

Cuts take some entries of an axis, growth takes some more than once. Only the shape that the model
describes is read here: no leaf is known by its name. Weights are numpy's, on the host.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from kanana_jax.config import ConfigError, ModelConfig
from kanana_jax.model import transformer
from kanana_jax.model.transformer import Weights

# Entries by a prefix of a leaf's path; the longest prefix that fits counts. The leading dimensions
# of entries are those of the leaf: its layers, its experts.
Entries = Mapping[str, Int[np.ndarray, "*lead new"]]


class Cut(NamedTuple):
    """A smaller model, and the share of the axis's importance that it kept."""

    cfg: ModelConfig
    weights: Weights
    kept: float


def resize(weights: Weights, new: ModelConfig, entries: Entries) -> Weights:
    """Weights of the shape `new`; leaves that it does not have are left out."""
    old = dict(flat(weights))

    def leaf(path: tuple[Any, ...], wanted: jax.ShapeDtypeStruct) -> np.ndarray:
        name = name_of(path)
        x = np.asarray(old[name])
        for axis, (size, other) in enumerate(zip(x.shape, wanted.shape, strict=True)):
            if size != other:
                x = along(x, _entries_of(name, entries), axis)
        return x

    return jax.tree_util.tree_map_with_path(leaf, shapes(new))


def along(x: np.ndarray, entries: Int[np.ndarray, "*lead new"], axis: int) -> np.ndarray:
    """Takes entries of an axis; they may differ over the leading axes."""
    lead = entries.ndim - 1
    after = (1,) * (x.ndim - axis - 1)
    shape = (*entries.shape[:-1], *(1,) * (axis - lead), entries.shape[-1], *after)
    return np.take_along_axis(x, entries.reshape(shape), axis)


def flat(weights: Weights) -> list[tuple[str, Any]]:
    """Leaves by paths "params/moe_layers/mlp/router" and "buffers/router_bias"."""
    return [(name_of(path), x) for path, x in jax.tree_util.tree_flatten_with_path(weights)[0]]


def name_of(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _entries_of(name: str, entries: Entries) -> Int[np.ndarray, "*lead new"]:
    return entries[max((start for start in entries if name.startswith(start)), key=len)]


@functools.lru_cache(maxsize=64)
def shapes(cfg: ModelConfig) -> Weights:
    return jax.eval_shape(functools.partial(transformer.init, cfg), jax.random.key(0))


def best(score: np.ndarray, size: int, groups: int = 1) -> Int[np.ndarray, "*lead new"]:
    """The `size` best entries of the last axis by score, equally many per group, in order.

    Among equal scores the earlier entry is kept.
    """
    grouped = score.reshape(*score.shape[:-1], groups, -1)
    order = np.argsort(-grouped, axis=-1, kind="stable")[..., : size // groups]
    kept = np.sort(order, axis=-1) + np.arange(groups)[:, None] * grouped.shape[-1]
    return kept.reshape(*score.shape[:-1], size)


def share(scores: Sequence[np.ndarray], entries: Sequence[np.ndarray]) -> float:
    """The part of all scores that the kept entries have."""
    pairs = zip(scores, entries, strict=True)
    kept = sum(np.take_along_axis(x, index, -1).sum(dtype=np.float64) for x, index in pairs)
    total = sum(x.sum(dtype=np.float64) for x in scores)
    return float(kept / total) if total else 1.0


def expect_size(cfg: ModelConfig, field: str, size: int, *, lowest: int = 1, step: int = 1) -> None:
    """Raises ConfigError unless the field can be cut to `size`, a multiple of `step`."""
    value = getattr(cfg, field) or 0
    if not lowest <= size <= value or size % step:
        multiple = f" and be a multiple of {step}" if step > 1 else ""
        raise ConfigError(
            f"model.{field} = {value} can be cut to a number that must lie in [{lowest}, {value}]"
            f"{multiple}; got {size}"
        )


def expect_part(cfg: ModelConfig, field: str, count: int) -> None:
    """Raises ConfigError unless the model has some of what the field is about."""
    if not count:
        raise ConfigError(
            f"a cut of model.{field} needs a model that has some of it, got "
            f"num_dense_layers = {cfg.num_dense_layers} of {cfg.num_layers}, "
            f"num_shared_experts = {cfg.num_shared_experts}"
        )


def expect_vector_gains(cfg: ModelConfig, field: str) -> None:
    """Raises ConfigError unless norms have a number for each entry, which the cut scales."""
    if cfg.norm_gain != "vector":
        raise ConfigError(
            f"a cut of model.{field} scales the gains of norms, which must be vectors, got "
            f"norm_gain {cfg.norm_gain}; `model.surgery.with_vector_gains` gives the same model so"
        )
