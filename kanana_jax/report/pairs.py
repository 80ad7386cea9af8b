"""Two arms set against each other on the same held-out sequences and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kanana_jax.report import results, statistics
from kanana_jax.report.results import RunResult

# Bits per byte: arms that differ by less are as good as each other for all that follows from it.
MARGIN_BPB = 0.05

Outcome = Literal["better", "equal", "worse", "not resolved", "not measured"]


@dataclass(frozen=True)
class Comparison:
    """How one arm's held-out loss compares with another's, or with several others'."""

    outcome: Outcome
    words: tuple[str, ...]  # one for each arm compared with
    num_seeds: int = 0


def compare(runs: Sequence[RunResult], others: Sequence[RunResult]) -> Comparison:
    """Sets the seeds of one cell against those of others; the least favourable outcome counts.

    A cell of which any seed diverged loses to one of which none did.
    """
    if not runs:
        return Comparison("not measured", ("not run",))
    found = [_compare(runs, results.select(others, arm=arm)) for arm in results.arms(others)]
    measured = [one for one in found if one.outcome != "not measured"]
    order: tuple[Outcome, ...] = ("better", "equal", "not resolved", "worse")
    outcome: Outcome = "not measured"
    for candidate in order:
        if candidate in {one.outcome for one in measured}:
            outcome = candidate
    return Comparison(
        outcome,
        tuple(words for one in found for words in one.words) or ("nothing to compare with",),
        min((one.num_seeds for one in measured), default=0),
    )


def by_seed(runs: Sequence[RunResult]) -> statistics.BySeed:
    """The held-out losses of a cell; raises UnpairedError where a run recorded none."""
    missing = [run.directory.name for run in runs if run.heldout is None]
    if missing:
        raise statistics.UnpairedError(f"no losses by sequence in {', '.join(missing)}")
    return {run.seed: run.heldout for run in runs if run.heldout is not None}


def described(difference: statistics.Difference) -> str:
    """Value, band, what it could have seen, and what that says."""
    return (
        f"{difference.value:+.4f} +- {difference.band:.4f} bits per byte, "
        f"{difference.outcome(MARGIN_BPB)} (detects {difference.smallest_seen:.4f})"
    )


def _compare(runs: Sequence[RunResult], others: Sequence[RunResult]) -> Comparison:
    name = others[0].arm
    died, other_died = any(run.diverged for run in runs), any(run.diverged for run in others)
    num_seeds = min(len(runs), len(others))
    if died and other_died:
        return Comparison("not measured", (f"it and {name} diverged",))
    if died:
        return Comparison("worse", (f"it diverged and {name} did not",), num_seeds)
    if other_died:
        return Comparison("better", (f"{name} diverged and it did not",), num_seeds)
    try:
        found = statistics.difference(by_seed(runs), by_seed(others))
    except statistics.UnpairedError as error:
        return Comparison("not measured", (f"against {name}: {error}",))
    words = f"against {name}: {described(found)}"
    return Comparison(found.outcome(MARGIN_BPB), (words,), found.num_seeds)
