"""Compute that arms need for one loss, from runs at constant rates read along the way.

Every run keeps its rate and averages its weights, so that each reading is the end of a run of that
budget (arXiv:2608.20061, sec. 2.2). At every budget an arm is read at the rate that is best there
in the mean over seeds.

    gain    FLOPs of an arm to a loss over those of another: above 1, the other needs fewer. The
            loss, by seed, is the highest of all arms' least ones, which every arm reaches.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from kanana_jax import config
from kanana_jax.laws import curves
from kanana_jax.laws.proxies import AVERAGED
from kanana_jax.plan import flops
from kanana_jax.report import results
from kanana_jax.report.results import Run

RATE = "optimizer.lr"

Curves = Mapping[int, curves.Curve]  # by seed


def best_curves(runs: Sequence[Run]) -> Curves:
    """Curves of one arm, without rates at which a seed diverged; empty where none is left."""
    by_rate: dict[float, dict[int, Run]] = {}
    for run in runs:
        by_rate.setdefault(run.axis(RATE), {})[run.seed] = run
    seeds = sorted(
        set.intersection(*(set(of_rate) for of_rate in by_rate.values())) if by_rate else ()
    )
    kept = [
        [of_rate[seed] for seed in seeds]
        for of_rate in by_rate.values()
        if not any(run.diverged for run in of_rate.values())
    ]
    if not kept or not seeds:
        return {}
    steps_T = kept[0][0].series(AVERAGED).steps_N
    loss_RKT = np.array([[run.series(AVERAGED).values_N for run in of_rate] for of_rate in kept])
    best_T = loss_RKT.mean(axis=1).argmin(axis=0)
    data = kept[0][0].config["data"]
    tokens_T = steps_T * float(data["batch_size"] * data["seq_len"])
    return {
        seed: curves.Curve(tokens_T, loss_RKT[best_T, at, np.arange(len(best_T))], "average")
        for at, seed in enumerate(seeds)
    }


def of_arms(runs: Sequence[Run]) -> dict[str, Curves]:
    """The curves of each arm that has any."""
    found = {arm: best_curves(results.select(runs, arm=arm)) for arm in results.arms(runs)}
    return {arm: of_arm for arm, of_arm in found.items() if of_arm}


def flops_per_token(runs: Sequence[Run], arm: str) -> float:
    """Training FLOPs of an arm, per token."""
    (run, *_) = results.select(runs, arm=arm)
    shape = config.from_json(config.ModelConfig, run.config["model"])
    data = run.config["data"]
    tokens = data["batch_size"] * data["seq_len"]
    return flops.of_model(shape, data["batch_size"], data["seq_len"]) / tokens


def gains(
    runs: Sequence[Run], of_arms: Mapping[str, Curves], arm: str, other: str
) -> dict[int, float]:
    """By seed: FLOPs of `arm` to the loss that all arms reach, over those of `other`."""
    costs = {name: flops_per_token(runs, name) for name in (arm, other)}
    found = {}
    for seed in sorted(of_arms[arm].keys() & of_arms[other].keys()):
        target = max(
            float(of_arm[seed].loss_N.min()) for of_arm in of_arms.values() if seed in of_arm
        )
        needed = {
            name: costs[name] * float(of_arms[name][seed].tokens_at(np.array(target)))
            for name in (arm, other)
        }
        found[seed] = needed[arm] / needed[other]
    return found


def last_losses(of_arm: Curves) -> dict[int, float]:
    """Losses after all tokens, by seed."""
    return {seed: float(curve.loss_N[-1]) for seed, curve in of_arm.items()}
