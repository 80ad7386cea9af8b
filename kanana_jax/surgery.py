"""Model folders made from model folders, by growth or by cuts.

`kanana_jax.convert` runs it, and stages of a pipeline start from what it makes. Each cut is
measured on calibration text with the model that the cuts before it left. The whole model is in the
host's memory twice, and, while it is measured, once on the device.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kanana_jax import config, model
from kanana_jax.config import (
    ConfigError,
    DataConfig,
    ExecutionConfig,
    ModelConfig,
    SurgeryConfig,
)
from kanana_jax.data import calibration
from kanana_jax.model import attention, surgery
from kanana_jax.plan import flops
from kanana_jax.weights import source, whole

_FLOPS_LENGTH = 4096  # tokens of a sequence


class Step(NamedTuple):
    """A model along the way, and the change that made it from the one before."""

    what: str
    cfg: ModelConfig
    weights: model.Weights


Report = Callable[[str], object]  # told a line for each step
_Steps = Callable[[ModelConfig, model.Weights], Iterator[Step]]


def expect_known(chosen: SurgeryConfig) -> None:
    """Raises ConfigError where `chosen` names something that cannot be grown or cut."""
    verb, known = ("grow", _growths(chosen)) if chosen.grow else ("prune", _cuts(chosen))
    others = [name for name, _ in chosen.changes if name not in known]
    if others:
        raise ConfigError(f"{verb} takes {', '.join(known)}, each with =number; got {others[0]}")


def make(
    chosen: SurgeryConfig,
    folder: Path,
    target: Path,
    *,
    text: DataConfig,
    is_dry: bool = False,
    report: Report,
) -> None:
    """Writes `target`, what `chosen` makes of the model in `folder`; nothing where `is_dry`.

    Cuts are chosen by `text`, with the tokenizer of the folder. Raises ConfigError on a shape that
    the model cannot have, CheckpointError on the folders and DataError on the text.
    """
    expect_known(chosen)
    opened = source.open_source(folder)
    steps = _growing(chosen) if chosen.grow else _cutting(chosen, folder, opened, text)
    _make(opened, folder, target, steps, is_dry, report)


def write_vector_gains(folder: Path, target: Path) -> None:
    """Writes `target`, the model of `folder` with norms that any program reads."""
    opened = source.open_source(folder)
    cfg, weights = surgery.with_vector_gains(opened.cfg, whole.load(opened))
    whole.save(target, cfg, weights, opened, folder)


def _growths(chosen: SurgeryConfig) -> Mapping[str, Callable]:
    return {
        "stack": surgery.stack,
        "interpose": surgery.interpose,
        "interpose_zero": functools.partial(surgery.interpose, is_zero=True),
        "experts": functools.partial(surgery.duplicate_experts, noise=chosen.noise),
    }


def _cuts(chosen: SurgeryConfig) -> Mapping[str, Callable]:
    score = surgery.SCORES[chosen.expert_score]
    return {**surgery.CUTS, "num_experts": functools.partial(surgery.cut_experts, score=score)}


def _growing(chosen: SurgeryConfig) -> _Steps:
    def steps(cfg: ModelConfig, weights: model.Weights) -> Iterator[Step]:
        for name, number in chosen.changes:
            cfg, weights = _growths(chosen)[name](cfg, weights, number)
            yield Step(f"{name}={number}", cfg, weights)

    return steps


def _cutting(
    chosen: SurgeryConfig, folder: Path, opened: source.Source, text: DataConfig
) -> _Steps:
    execution = config.edit(ExecutionConfig(), [f"compute_dtype={opened.compute_dtype}"])

    def steps(cfg: ModelConfig, weights: model.Weights) -> Iterator[Step]:
        for name, size in chosen.changes:
            read = calibration.batches(folder, text, chosen.num_samples, chosen.length)
            seen = surgery.observe(cfg, weights, read, execution)
            cfg, weights, kept = _cuts(chosen)[name](cfg, weights, seen, size)
            yield Step(f"{name}={size} keeps {kept:.2%} of the score", cfg, weights)

    return steps


def _make(
    opened: source.Source,
    folder: Path,
    target: Path,
    steps: _Steps,
    is_dry: bool,
    report: Report,
) -> None:
    made = first = Step("before", opened.cfg, whole.load(opened))
    report(_line(first))
    for made in steps(first.cfg, first.weights):
        report(_line(made))
    if not is_dry:
        whole.save(target, made.cfg, made.weights, opened, folder)


def _line(step: Step) -> str:
    """Size, cost of training and memory."""
    total, active = model.num_params(step.cfg)
    per_token = flops.of_model(step.cfg, 1, _FLOPS_LENGTH) / _FLOPS_LENGTH
    num_bytes = sum(x.nbytes for x in jax.tree.leaves(step.weights))
    return (
        f"{step.what}: {total:,} parameters, {active:,} active; "
        f"{per_token:.3g} FLOPs per token of training at {_FLOPS_LENGTH}; "
        f"{num_bytes / 2**20:,.1f} MiB of weights, {_cache_bytes(step.cfg):,} bytes of bfloat16 "
        "cache per token"
    )


def _cache_bytes(cfg: ModelConfig) -> int:
    init = functools.partial(attention.of(cfg).init_cache, cfg, 1, 1, jnp.dtype(jnp.bfloat16))
    layer = jax.eval_shape(init)
    return cfg.num_layers * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(layer))
