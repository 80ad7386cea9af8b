"""The report: stages and claims, and what each cut lost and left."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import distill_small
from experiments.prune_distill import verdict
from kanana_jax import config, model
from kanana_jax.report import pairs, results, stages, statistics
from kanana_jax.report.results import Run


def _of_cuts(runs: Sequence[Run]) -> str:
    """A line for each cut: what is left of the parameters, and what was lost."""
    base = results.select(runs, arm=verdict.BASE)
    lines = []
    for arm in (*map(verdict.cut_of, verdict.CUTS), verdict.CUT):
        cut = results.select(runs, arm=arm)
        if base and cut:
            left = _num_params(cut[0]) / _num_params(base[0])
            lines.append(f"{arm}: {left:.1%} of the parameters left; {_lost(cut, base)}.")
    return "\n".join(lines)


def _lost(cut: Sequence[Run], base: Sequence[Run]) -> str:
    try:
        found = statistics.difference(pairs.by_seed(cut), pairs.by_seed(base))
    except statistics.UnpairedError as error:
        return f"not measured, {error}"
    return f"held-out loss {found.value:+.4f} +- {found.band:.4f} bits per byte"


def _num_params(run: Run) -> int:
    return model.num_params(config.from_json(config.ModelConfig, run.config["model"]))[0]


def _of_students(runs: Sequence[Run]) -> str:
    """A line for each arm: the shares that it won back."""
    lines = []
    for arm in distill_small.ARMS:
        by_seed = verdict.recovered(runs, arm.name)
        shares = ", ".join(f"{by_seed[seed]:.1%}" for seed in sorted(by_seed))
        lines.append(f"{arm.name}: {shares or 'not measured'} by seed.")
    return "\n".join(lines)


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    headline, found = verdict.judge(runs)
    return stages.write(
        runs,
        about,
        path,
        headline=headline,
        claims_found=found,
        sections=[("Cuts", _of_cuts(runs)), ("Won back", _of_students(runs))],
        keys=("heldout_bpb",),
    )
