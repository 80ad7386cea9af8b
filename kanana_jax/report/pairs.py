"""Compares arms on the same held-out sequences and seeds.

Either at the same place, or each at its own best: the place with the lowest mean held-out loss
where no seed diverged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kanana_jax.report import results, statistics, tables
from kanana_jax.report.results import Place, Run

# Bits per byte: arms that differ by less count as equally good.
MARGIN_BPB = 0.05

Outcome = Literal["better", "equal", "worse", "not resolved", "not measured"]


@dataclass(frozen=True)
class Comparison:
    """How one arm's held-out loss compares with another's, or with several others'."""

    outcome: Outcome
    words: tuple[str, ...]  # one for each arm compared with
    num_seeds: int = 0


def compare(runs: Sequence[Run], others: Sequence[Run], source: str = "") -> Comparison:
    """Compares the seeds of one cell with those of others; the least favourable outcome counts.

    The loss is over all held-out text, or over that of one source, named by its label. A cell with
    a diverged seed loses to one without.
    """
    if not runs:
        return Comparison("not measured", ("not run",))
    found = [
        _compare(runs, results.select(others, arm=arm), source) for arm in results.arms(others)
    ]
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


def by_seed(runs: Sequence[Run], source: str = "") -> statistics.BySeed:
    """The held-out losses of a cell; raises UnpairedError where a run recorded none."""
    found = [(run, run.heldout_of(source)) for run in runs]
    missing = [run.directory.name for run, heldout in found if heldout is None]
    if missing:
        raise statistics.UnpairedError(f"no losses by sequence in {', '.join(missing)}")
    return {run.seed: heldout for run, heldout in found if heldout is not None}


def described(difference: statistics.Difference) -> str:
    """The value, its band, the outcome, and the smallest difference that could have been seen.

    What counts as equal is told with it: a band without 0 may still be equal.
    """
    outcome = difference.outcome(MARGIN_BPB)
    within = f" within {MARGIN_BPB:g}" if outcome == "equal" else ""
    return (
        f"{difference.value:+.4f} +- {difference.band:.4f} bits per byte, "
        f"{outcome}{within} (detects {difference.smallest_seen:.4f})"
    )


def _compare(runs: Sequence[Run], others: Sequence[Run], source: str) -> Comparison:
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
        found = statistics.difference(by_seed(runs, source), by_seed(others, source))
    except statistics.UnpairedError as error:
        return Comparison("not measured", (f"against {name}: {error}",))
    words = f"against {name}: {described(found)}"
    return Comparison(found.outcome(MARGIN_BPB), (words,), found.num_seeds)


@dataclass(frozen=True)
class Best:
    """An arm's best place."""

    arm: str
    place: Place
    heldout_bpb: float
    is_bracketed: bool | None  # lower and higher values ran, and were worse; None: not numbers

    @property
    def words(self) -> str:
        edge = ", at the edge of its sweep" if self.is_bracketed is False else ""
        name = f"{self.arm}: " if self.arm else ""
        return (
            f"{name}{results.place_words(self.place)} ({self.heldout_bpb:.4f} bits per byte){edge}"
        )


def losses(runs: Sequence[Run]) -> dict[Place, float]:
    """Mean held-out loss of one arm by place, where no seed diverged."""
    return {
        cell.place: cell.heldout_bpb
        for cell in tables.summarize(runs)
        if not cell.diverged and all(math.isfinite(r.value("heldout_bpb")) for r in cell.runs)
    }


def best(runs: Sequence[Run]) -> list[Best]:
    """The best place of every arm that has one."""
    numeric = [
        axis
        for axis in results.place_axes(runs)
        for values in [results.values_of(runs, axis)]
        if len(values) > 1 and results.are_numbers(values)
    ]
    found = [_best(results.select(runs, arm=arm), numeric) for arm in results.arms(runs)]
    return [one for one in found if one is not None]


def _best(runs: Sequence[Run], numeric_axes: Sequence[str]) -> Best | None:
    by_place = losses(runs)
    if not by_place:
        return None
    place = min(by_place, key=by_place.__getitem__)
    inside = [
        min(values) < dict(place)[axis] < max(values)
        for axis in numeric_axes
        for values in [results.values_of(runs, axis)]
        if axis in dict(place)
    ]
    return Best(runs[0].arm, place, by_place[place], all(inside) if inside else None)


def compare_best(runs: Sequence[Run], one: Best, other: Best) -> Comparison:
    """Two arms, each at its own best place."""
    found = compare(at_best(runs, one), at_best(runs, other))
    where = f"{results.place_words(one.place)} against {results.place_words(other.place)}"
    return Comparison(
        found.outcome, tuple(f"{where}: {words}" for words in found.words), found.num_seeds
    )


def at_best(runs: Sequence[Run], one: Best) -> list[Run]:
    """The seeds of an arm at its best place."""
    return results.select(runs, arm=one.arm, place=one.place)
