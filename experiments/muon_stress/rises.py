"""What arms lose above their own best learning rates, and what their logits do meanwhile.

rise       held-out loss at a higher rate, less that at the arm's best one
"""

import math
from collections.abc import Sequence

import numpy as np

from experiments.muon_stress import arms
from kanana_jax.jobs import curves
from kanana_jax.report import pairs, results, statistics
from kanana_jax.report.pairs import Best, Comparison
from kanana_jax.report.results import Run

# Rises are compared at the rate nearest to this multiple of the best one, a factor 2 off at most.
STRESS_MULTIPLE = 4.0


def best_lr(runs: Sequence[Run], one: Best) -> float:
    return arms.lr(pairs.at_best(runs, one)[0])


def stress_lr(runs: Sequence[Run], one: Best) -> float | None:
    """The arm's rate near STRESS_MULTIPLE times its best one, None without one."""
    own, best = results.select(runs, arm=one.arm), best_lr(runs, one)
    living = {arms.lr(results.select(own, place=place)[0]) for place in pairs.losses(own)}
    off = {lr: abs(math.log(lr / best / STRESS_MULTIPLE)) for lr in living if lr > best}
    near = [lr for lr in sorted(off) if off[lr] <= math.log(2)]
    return min(near, key=off.__getitem__, default=None)


def compare(runs: Sequence[Run], one: Best, other: Best) -> Comparison:
    """What two arms lose at about STRESS_MULTIPLE times their own best rates."""
    stressed = {best.arm: stress_lr(runs, best) for best in (one, other)}
    rate, other_rate = stressed[one.arm], stressed[other.arm]
    if rate is None or other_rate is None:
        without = " and ".join(arm for arm, lr in stressed.items() if lr is None)
        words = f"no rate near {STRESS_MULTIPLE:g} times its best: {without}"
        return Comparison("not measured", (words,))
    try:
        found = statistics.contrast(
            [*_rise(runs, one, rate, 1.0), *_rise(runs, other, other_rate, -1.0)]
        )
    except statistics.UnpairedError as error:
        return Comparison("not measured", (f"against {other.arm}: {error}",))
    words = (
        f"at {rate / best_lr(runs, one):.3g} times its best rate against {other.arm} at "
        f"{other_rate / best_lr(runs, other):.3g} times: {pairs.described(found)}"
    )
    return Comparison(found.outcome(pairs.MARGIN_BPB), (words,), found.num_seeds)


def _rise(
    runs: Sequence[Run], one: Best, rate: float, sign: float
) -> list[tuple[float, statistics.BySeed]]:
    return [
        (sign, pairs.by_seed(arms.cell(runs, one.arm, rate))),
        (-sign, pairs.by_seed(pairs.at_best(runs, one))),
    ]


def logits_at_equal_rise(
    runs: Sequence[Run], one: Best, other: Best
) -> tuple[float, list[float]] | None:
    """Peak logits of `one` over those of `other` where both have lost equally much.

    Taken at the highest rate of `one`; the other's are interpolated in (rise, log peak) between
    its rates from the best one on. Returns the mean rise there and a ratio for every seed; None
    where the other arm does not lose that much in every seed.
    """
    top = max(arms.lrs(results.select(runs, arm=one.arm)))
    risen = {seed: points[top] for seed, points in _points(runs, one).items() if top in points}
    reference = _points(runs, other)
    ratios = []
    for seed, (rise, log_peak) in risen.items():
        points = np.array(sorted(reference.get(seed, {}).values()))
        if len(points) < 2 or not points[0, 0] <= rise <= points[-1, 0]:
            return None
        ratios.append(math.exp(log_peak - np.interp(rise, points[:, 0], points[:, 1])))
    return (float(np.mean([rise for rise, _ in risen.values()])), ratios) if ratios else None


def _points(runs: Sequence[Run], best: Best) -> dict[int, dict[float, tuple[float, float]]]:
    """(rise, log of the peak logit) by seed and rate, from the best rate on."""
    start = {run.seed: run.value("heldout_bpb") for run in pairs.at_best(runs, best)}
    lowest = best_lr(runs, best)
    found: dict[int, dict[float, tuple[float, float]]] = {}
    for run in results.select(runs, arm=best.arm):
        rise = run.value("heldout_bpb") - start.get(run.seed, math.nan)
        peak = curves.peak_max_logit(run)
        if arms.lr(run) >= lowest and math.isfinite(rise) and 0 < peak < math.inf:
            found.setdefault(run.seed, {})[arms.lr(run)] = (rise, math.log(peak))
    return found
