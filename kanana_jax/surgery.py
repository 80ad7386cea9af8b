"""Model folders made from model folders, by growth or by cuts: what `kanana_jax.convert` runs.

Each cut is measured on calibration text by the model that the cuts before it left. The whole model
is in the host's memory twice, and while it is measured once on the device.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kanana_jax import config, model
from kanana_jax.batch import Inputs
from kanana_jax.config import ConfigError, ExecutionConfig, ModelConfig
from kanana_jax.data import calibration
from kanana_jax.model import attention, surgery
from kanana_jax.plan import flops
from kanana_jax.weights import source, whole

EXPERT_SCORES = tuple(surgery.SCORES)
_FLOPS_LENGTH = 4096  # tokens of a sequence


class Step(NamedTuple):
    """A model on the way, and what made it of the one before."""

    what: str
    cfg: ModelConfig
    weights: model.Weights


Changes = Sequence[tuple[str, int]]
Report = Callable[[str], object]  # told a line for each step


def grow(
    folder: Path, target: Path, changes: Changes, *, noise: float, is_dry: bool, report: Report
) -> None:
    """Writes `target`, the model in `folder` grown; nothing where `is_dry`.

    Raises ConfigError on a growth that the model cannot have, CheckpointError on the folders.
    """
    known: Mapping[str, Callable] = {
        "stack": surgery.stack,
        "interpose": surgery.interpose,
        "interpose_zero": functools.partial(surgery.interpose, is_zero=True),
        "experts": functools.partial(surgery.duplicate_experts, noise=noise),
    }
    _expect_known("--grow", changes, known)

    def steps(cfg: ModelConfig, weights: model.Weights) -> Iterator[Step]:
        for name, number in changes:
            cfg, weights = known[name](cfg, weights, number)
            yield Step(f"{name}={number}", cfg, weights)

    _make(source.open_source(folder), folder, target, steps, is_dry, report)


def prune(
    folder: Path,
    target: Path,
    changes: Changes,
    *,
    paths: Sequence[str],
    num_samples: int,
    length: int,
    expert_score: str,
    is_dry: bool,
    report: Report,
) -> None:
    """Writes `target`, the model in `folder` with its config's fields cut to these sizes.

    `paths` are the calibration text, `num_samples` documents of up to `length` tokens. Raises
    ConfigError, CheckpointError, and DataError on the text.
    """
    score = functools.partial(surgery.cut_experts, score=surgery.SCORES[expert_score])
    known = {**surgery.CUTS, "num_experts": score}
    _expect_known("--prune", changes, known)
    opened = source.open_source(folder)
    execution = config.edit(ExecutionConfig(), [f"compute_dtype={opened.compute_dtype}"])

    def text() -> Iterable[Inputs]:
        return calibration.batches(folder, paths, num_samples, length)

    def steps(cfg: ModelConfig, weights: model.Weights) -> Iterator[Step]:
        for name, size in changes:
            seen = surgery.observe(cfg, weights, text(), execution)
            cfg, weights, kept = known[name](cfg, weights, seen, size)
            yield Step(f"{name}={size} keeps {kept:.2%} of the score", cfg, weights)

    _make(opened, folder, target, steps, is_dry, report)


def _expect_known(flag: str, changes: Changes, known: Mapping[str, object]) -> None:
    others = [name for name, _ in changes if name not in known]
    if others:
        raise ConfigError(f"{flag} takes {', '.join(known)}, each with =number; got {others[0]}")


def _make(
    opened: source.Source,
    folder: Path,
    target: Path,
    steps: Callable[[ModelConfig, model.Weights], Iterator[Step]],
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
