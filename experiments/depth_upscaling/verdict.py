"""What growth saves, computed from the runs.

    loss from scratch  L_k(C) = a_k - b log C     C: FLOPs of the whole run; b: of all seeds
    saved              1 - C / C',  L_k(C') = L_k of the grown model, whose FLOPs are C, the
                       parent's among them

A loss is regained where the curve of held-out loss, which begins right after the growth, falls
below the parent's for good; between measurements it is a straight line.

Letters: k a seed, K seeds, A runs from scratch of a seed.
"""

import math
from collections.abc import Sequence

import numpy as np

from kanana_jax import config
from kanana_jax.plan import flops
from kanana_jax.report import claims, pairs, results
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

PARENT, ON, SCRATCH = "base", "longer", "scratch"  # stages
GROWTHS = "stack", "interpose", "zeros"
EQUAL = "as many FLOPs"
SHARES = {"half the FLOPs": 0.5, EQUAL: 1.0, "1.5 times the FLOPs": 1.5}
PUBLISHED = 0.1106  # saved, arXiv:2502.18934
SOON = 0.1  # of the parent's tokens


def start_of(growth: str) -> str:
    """The stage that measures a grown model before it is trained."""
    return f"{growth}_start"


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    scratch = results.select(runs, arm=f"{SCRATCH}: {EQUAL}")
    found, saved = [], []
    for name in GROWTHS:
        grown = results.select(runs, arm=name)
        found.append(
            claims.better(
                f"At equal FLOPs, is held-out loss lower after {name} than from scratch?",
                pairs.compare(grown, scratch),
            )
        )
        question = f"Does {name} save FLOPs against scratch? Kanana-1 says {PUBLISHED:.2%}."
        saved.append(claims.above(question, saving(runs, name), 0.0, "The saved share"))
    found += saved
    for name in GROWTHS:
        found.append(
            claims.better(
                f"Is held-out loss lower after {name} than where the parent goes on?",
                pairs.compare(results.select(runs, arm=name), results.select(runs, arm=ON)),
            )
        )
    for name in GROWTHS:
        left = {seed: SOON - share for seed, share in regained(runs, name).items()}
        question = f"After {name}, is the parent's loss regained in {SOON:g} of its tokens?"
        found.append(claims.above(question, left, 0.0, f"What is left of the {SOON:g}"))
    holds = {one.holds for one in saved}
    if True in holds:
        names = [name for name, one in zip(GROWTHS, saved, strict=True) if one.holds]
        return f"Growth by {claims.listed(names)} saves FLOPs against scratch.", found
    if holds == {False}:
        return "No growth saves FLOPs: scratch reaches the loss with as few or fewer.", found
    return "These runs do not tell whether growth saves FLOPs.", found


def num_flops(run: Run) -> float:
    """FLOPs of training that run alone."""
    shape = config.from_json(config.ModelConfig, run.config["model"])
    data = run.config["data"]
    return run.steps * flops.of_model(shape, data["batch_size"], data["seq_len"])


def whole_flops(runs: Sequence[Run], run: Run) -> float:
    """FLOPs of a run and of its parent, where it has one."""
    has_parent = run.arm in GROWTHS or run.arm == ON
    parent = [one for one in results.select(runs, arm=PARENT) if one.seed == run.seed]
    return num_flops(run) + (sum(map(num_flops, parent)) if has_parent else 0.0)


def saving(runs: Sequence[Run], growth: str) -> dict[int, float]:
    """The saved share of FLOPs by seed, negative where scratch needs fewer; NaN without a line."""
    arms = [results.select(runs, arm=f"{SCRATCH}: {name}") for name in SHARES]
    by_seed = {run.seed: [one for arm in arms for one in arm if one.seed == run.seed]
               for arm in arms for run in arm}  # fmt: skip
    lines = {seed: _points(of_seed) for seed, of_seed in by_seed.items()}
    slope = _slope(list(lines.values()))
    found = {}
    for run in results.select(runs, arm=growth):
        if run.seed in lines:
            cost_A, loss_A = lines[run.seed]
            cost = math.log(whole_flops(runs, run))
            from_scratch = loss_A.mean() - slope * (cost - cost_A.mean())
            gap = from_scratch - run.value("heldout_bpb")
            found[run.seed] = 1 - math.exp(-gap / slope) if slope > 0 else math.nan
    return found


def _points(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of FLOPs, and losses."""
    cost_A = np.log([num_flops(run) for run in runs])
    return cost_A, np.array([run.value("heldout_bpb") for run in runs])


def _slope(lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """By how much the loss falls when FLOPs grow by a factor of e, within seeds."""
    centred = [(cost_A - cost_A.mean(), loss_A - loss_A.mean()) for cost_A, loss_A in lines]
    square = sum(float(cost_A @ cost_A) for cost_A, _ in centred)
    return -sum(float(cost_A @ loss_A) for cost_A, loss_A in centred) / square if square else 0.0


def regained(runs: Sequence[Run], growth: str) -> dict[int, float]:
    """The parent's tokens that it takes to have its loss again, as a share, by seed.

    The share of the whole training where that was not long enough.
    """
    targets = {run.seed: run for run in results.select(runs, arm=PARENT)}
    starts = {
        run.seed: run.value("heldout_bpb") for run in results.select(runs, arm=start_of(growth))
    }
    found = {}
    for run in results.select(runs, arm=growth):
        if run.seed in targets and run.seed in starts:
            parent, series = targets[run.seed], run.series("heldout_bpb")
            steps_N = np.array([0.0, *series.steps_N])
            loss_N = np.array([starts[run.seed], *series.values_N])
            found[run.seed] = (
                _last_above(steps_N, loss_N, parent.value("heldout_bpb")) / parent.steps
            )
    return found


def _last_above(steps_N: np.ndarray, loss_N: np.ndarray, target: float) -> float:
    """The step at which a curve falls below `target` for good, its last one where it does not."""
    above = np.flatnonzero(loss_N > target)
    if not len(above):
        return 0.0
    last = int(above[-1])
    if last == len(loss_N) - 1:
        return float(steps_N[-1])
    share = (loss_N[last] - target) / (loss_N[last] - loss_N[last + 1])
    return float(steps_N[last] + share * (steps_N[last + 1] - steps_N[last]))
