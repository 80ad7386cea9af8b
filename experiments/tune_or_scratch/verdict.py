"""Who is ahead at first, who after all tokens, and where they cross.

Losses are held-out bits per byte of the target with averaged weights, paired by seed. A crossover
is the last change of sign between readings (laws.curves.crossover); it counts only where going on
was ahead before.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kanana_jax.laws import curves
from kanana_jax.report import claims, results
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

BASE, TUNED, SCRATCH = "base", "tuned", "scratch"
TARGET = "ko"

Curves = Mapping[int, curves.Curve]  # by seed


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    tuned, scratch = (of_arm(runs, arm) for arm in (TUNED, SCRATCH))
    ahead = claims.lower(
        "Is going on from the base ahead at the first reading?",
        _reading(tuned, 0),
        _reading(scratch, 0),
    )
    overtakes = claims.lower(
        "Is training from scratch ahead after all tokens?",
        _reading(scratch, -1),
        _reading(tuned, -1),
    )
    words: dict[Any, str] = {
        (True, True): "Going on is ahead at first, and training from scratch overtakes it.",
        (True, False): "Going on is ahead at first and stays so: nothing crosses in these tokens.",
        (False, True): "Training from scratch is ahead from the first reading on.",
    }
    headline = words.get(
        (ahead.holds, overtakes.holds), "These runs do not tell who is ahead, and where they cross."
    )
    return headline, [ahead, overtakes, _crossing(tuned, scratch)]


def of_arm(runs: Sequence[Run], arm: str) -> Curves:
    """The curves of the runs that did not diverge."""
    return {run.seed: _curve(run) for run in results.select(runs, arm=arm) if not run.diverged}


def _curve(run: Run) -> curves.Curve:
    steps_N, loss_N = run.series(f"heldout_bpb_{TARGET}_average")
    data = run.config["data"]
    tokens = float(data["batch_size"] * data["seq_len"])
    return curves.Curve(steps_N * tokens, loss_N, "constant rate, average")


def _reading(found: Curves, at: int) -> dict[int, float]:
    return {seed: float(curve.loss_N[at]) for seed, curve in found.items()}


def _crossing(tuned: Curves, scratch: Curves) -> Claim:
    question = "From how many tokens on is training from scratch ahead?"
    seeds = sorted(tuned.keys() & scratch.keys())
    at = {seed: curves.crossover(tuned[seed], scratch[seed]) for seed in seeds}
    seen = [tokens for tokens in at.values() if tokens is not None]
    details = tuple(
        f"seed {seed}: {'not seen' if tokens is None else f'{tokens:,.0f}'}"
        for seed, tokens in at.items()
    )
    answer = "Not seen."
    if seen:
        answer = f"{min(seen):,.0f} to {max(seen):,.0f}, in {len(seen)} of {claims.seeds(len(at))}."
    return Claim(question, None, answer, details)
