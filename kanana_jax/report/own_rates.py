"""Every arm judged around its own best rate, so that no arm's rates are chosen for another's.

best       the rate with the lowest mean held-out loss of which no seed diverged
rise       held-out loss at a higher rate, less that at the best one
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kanana_jax.report import pairs, results, statistics
from kanana_jax.report.results import RunResult

# Rises are compared at the rate nearest to this multiple of the best one, a factor 2 off at most.
STRESS_MULTIPLE = 4.0


@dataclass(frozen=True)
class Best:
    """An arm's best rate within its sweep."""

    arm: str
    lr: float
    heldout_bpb: float
    is_bracketed: bool  # lower and higher rates ran, and were worse
    stress_lr: float | None  # the rate near STRESS_MULTIPLE times it

    @property
    def words(self) -> str:
        edge = "" if self.is_bracketed else ", at the edge of its sweep"
        return f"{self.arm}: lr {self.lr:g} ({self.heldout_bpb:.4f} bits per byte){edge}"


def best(runs: Sequence[RunResult]) -> list[Best]:
    """The best rate of every arm that has one."""
    found = [_best(arm, results.select(runs, arm=arm)) for arm in results.arms(runs)]
    return [one for one in found if one is not None]


def _best(arm: str, runs: Sequence[RunResult]) -> Best | None:
    losses = {
        lr: float(np.mean([run.final_heldout_bpb for run in cell]))
        for lr in results.lrs(runs)
        for cell in [results.select(runs, lr=lr)]
        if not any(run.diverged for run in cell)
    }
    losses = {lr: loss for lr, loss in losses.items() if math.isfinite(loss)}
    if not losses:
        return None
    lr = min(losses, key=losses.__getitem__)
    rates = results.lrs(runs)
    off = {one: abs(math.log(one / lr / STRESS_MULTIPLE)) for one in losses if one > lr}
    near = [one for one in off if off[one] <= math.log(2)]
    return Best(
        arm, lr, losses[lr], rates[0] < lr < rates[-1], min(near, key=off.__getitem__, default=None)
    )


def compare_best(runs: Sequence[RunResult], one: Best, other: Best) -> pairs.Comparison:
    """Two arms, each at its own best rate."""
    found = pairs.compare(_cell(runs, one.arm, one.lr), _cell(runs, other.arm, other.lr))
    words = tuple(f"lr {one.lr:g} against lr {other.lr:g}: {words}" for words in found.words)
    return pairs.Comparison(found.outcome, words, found.num_seeds)


def compare_rise(runs: Sequence[RunResult], one: Best, other: Best) -> pairs.Comparison:
    """What two arms lose at about STRESS_MULTIPLE times their own best rates."""
    if one.stress_lr is None or other.stress_lr is None:
        without = " and ".join(best.arm for best in (one, other) if best.stress_lr is None)
        words = f"no rate near {STRESS_MULTIPLE:g} times its best: {without}"
        return pairs.Comparison("not measured", (words,))
    try:
        found = statistics.contrast([*_rise(runs, one, 1.0), *_rise(runs, other, -1.0)])
    except statistics.UnpairedError as error:
        return pairs.Comparison("not measured", (f"against {other.arm}: {error}",))
    words = (
        f"at {one.stress_lr / one.lr:.3g} times its best rate against {other.arm} at "
        f"{other.stress_lr / other.lr:.3g} times: {pairs.described(found)}"
    )
    return pairs.Comparison(found.outcome(pairs.MARGIN_BPB), (words,), found.num_seeds)


def _rise(
    runs: Sequence[RunResult], one: Best, sign: float
) -> list[tuple[float, statistics.BySeed]]:
    assert one.stress_lr is not None
    return [
        (sign, pairs.by_seed(_cell(runs, one.arm, one.stress_lr))),
        (-sign, pairs.by_seed(_cell(runs, one.arm, one.lr))),
    ]


def _cell(runs: Sequence[RunResult], arm: str, lr: float) -> list[RunResult]:
    return results.select(runs, arm=arm, lr=lr)


def logits_at_equal_rise(
    runs: Sequence[RunResult], one: Best, other: Best
) -> tuple[float, list[float]] | None:
    """Peak logits of `one` over those of `other` where both have lost equally much.

    Taken at the highest rate of `one`; the other's are interpolated in (rise, log peak) between
    its rates from the best one on. Returns the mean rise there and a ratio for every seed; None
    where the other arm does not lose that much in every seed.
    """
    top = max(results.lrs(results.select(runs, arm=one.arm)))
    risen = {seed: points[top] for seed, points in _points(runs, one).items() if top in points}
    reference = _points(runs, other)
    ratios = []
    for seed, (rise, log_peak) in risen.items():
        points = np.array(sorted(reference.get(seed, {}).values()))
        if len(points) < 2 or not points[0, 0] <= rise <= points[-1, 0]:
            return None
        ratios.append(math.exp(log_peak - np.interp(rise, points[:, 0], points[:, 1])))
    return (float(np.mean([rise for rise, _ in risen.values()])), ratios) if ratios else None


def _points(runs: Sequence[RunResult], best: Best) -> dict[int, dict[float, tuple[float, float]]]:
    """(rise, log of the peak logit) by seed and rate, from the best rate on."""
    start = {run.seed: run.final_heldout_bpb for run in _cell(runs, best.arm, best.lr)}
    found: dict[int, dict[float, tuple[float, float]]] = {}
    for run in results.select(runs, arm=best.arm):
        rise = run.final_heldout_bpb - start.get(run.seed, math.nan)
        if run.lr >= best.lr and math.isfinite(rise) and 0 < run.peak_max_logit < math.inf:
            found.setdefault(run.seed, {})[run.lr] = (rise, math.log(run.peak_max_logit))
    return found
