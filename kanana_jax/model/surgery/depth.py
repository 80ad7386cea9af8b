"""Models with other layers: the old ones stacked by number, for growth and for cuts.

    stack        layers 1 .. n-m, then m+1 .. n: two copies overlap (SOLAR, arXiv:2312.15166)
    interpose    some layers twice, the copy behind its original (arXiv:2510.08008)
    cut_layers   only the layers that turn the residual stream most (arXiv:2403.03853)

Where a copy adds zero to the stream, logits stay bit for bit. A copy has its original's
router bias. Dense layers lead in every model, so where some layers are MoE only those are repeated.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from kanana_jax.config import ConfigError, ModelConfig
from kanana_jax.model.describe import describe
from kanana_jax.model.param_specs import ParamSpec
from kanana_jax.model.surgery import resizing
from kanana_jax.model.surgery.activations import Activations
from kanana_jax.model.transformer import Weights


def with_layers(
    cfg: ModelConfig, weights: Weights, numbers: Sequence[int]
) -> tuple[ModelConfig, Weights]:
    """A model of these layers in this order; ConfigError where dense ones would follow MoE ones."""
    dense = [number for number in numbers if number < cfg.num_dense_layers]
    if list(numbers[: len(dense)]) != dense or not numbers:
        raise ConfigError(
            f"layers must be some, those below num_dense_layers = {cfg.num_dense_layers} first; "
            f"got {list(numbers)}"
        )
    moe = [number - cfg.num_dense_layers for number in numbers[len(dense) :]]
    params = dict(weights.params)
    for name, taken in (("dense_layers", dense), ("moe_layers", moe)):
        stack = params.pop(name, None)
        if taken:
            params[name] = _taken(stack, taken)
    new = dataclasses.replace(cfg, num_layers=len(numbers), num_dense_layers=len(dense))
    return new, Weights(params, _taken(weights.buffers, moe))


def _taken(tree: Any, layers: list[int]) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[np.asarray(layers, np.int64)], tree)


def stack(cfg: ModelConfig, weights: Weights, overlap: int) -> tuple[ModelConfig, Weights]:
    """Two copies: one without the last `overlap` layers, then one without the first."""
    if not cfg.num_dense_layers * (cfg.num_moe_layers > 0) <= overlap < cfg.num_layers:
        raise ConfigError(
            f"stacked copies must each lose fewer than num_layers = {cfg.num_layers} layers, and "
            f"the second the dense layers of a model with experts; got {overlap}"
        )
    first, second = range(cfg.num_layers - overlap), range(overlap, cfg.num_layers)
    return with_layers(cfg, weights, [*first, *second])


def interpose(
    cfg: ModelConfig, weights: Weights, num_copies: int, *, is_zero: bool = False
) -> tuple[ModelConfig, Weights]:
    """Copies of evenly spread layers, each behind its original; `is_zero`: they add nothing yet."""
    first = cfg.num_dense_layers if cfg.num_moe_layers else 0
    num_layers = cfg.num_layers - first
    if not 1 <= num_copies <= num_layers:
        raise ConfigError(
            f"copies must be between 1 and {num_layers}, the layers that can have one; "
            f"got {num_copies}"
        )
    repeated = {first + (i + 1) * num_layers // num_copies - 1 for i in range(num_copies)}
    numbers = sorted([*range(cfg.num_layers), *repeated])
    new, grown = with_layers(cfg, weights, numbers)
    if not is_zero:
        return new, grown
    is_copy = np.array([i > 0 and numbers[i - 1] == number for i, number in enumerate(numbers)])
    return new, _without_output(new, grown, is_copy)


def _without_output(cfg: ModelConfig, weights: Weights, is_zero_L: np.ndarray) -> Weights:
    """Zeros in these layers' matrices whose output is added to the residual stream."""

    def part(spec: ParamSpec, x: np.ndarray, is_zero: np.ndarray) -> np.ndarray:
        if not _adds_to_stream(spec):
            return x
        return np.where(is_zero.reshape(-1, *(1,) * (x.ndim - 1)), np.zeros_like(x), x)

    specs, params = describe(cfg), dict(weights.params)
    num_dense = cfg.num_dense_layers
    for name, is_zero in (
        ("dense_layers", is_zero_L[:num_dense]),
        ("moe_layers", is_zero_L[num_dense:]),
    ):
        if name in params:
            params[name] = jax.tree.map(
                lambda spec, x, is_zero=is_zero: part(spec, x, is_zero),
                specs[name],
                params[name],
                is_leaf=lambda x: isinstance(x, ParamSpec),
            )
    return weights._replace(params=params)


def _adds_to_stream(spec: ParamSpec) -> bool:
    axes = () if spec.matrix is None else spec.matrix.cols
    names = {spec.logical_axes[axis] for axis in axes}
    return bool(names) and names <= {"embed", "expert_embed"}


def cut_layers(cfg: ModelConfig, weights: Weights, seen: Activations, size: int) -> resizing.Cut:
    resizing.expect_size(cfg, "num_layers", size)
    turned_L = np.concatenate([np.asarray(one["turned"]) for one in seen.stacks.values()])
    kept = resizing.best(turned_L, size)
    new, cut = with_layers(cfg, weights, kept.tolist())
    return resizing.Cut(new, cut, resizing.share([turned_L], [kept]))
