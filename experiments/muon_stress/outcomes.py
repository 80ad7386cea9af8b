"""What became of max logits at each learning rate, in multiples of tau."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.muon_stress import arms
from kanana_jax.jobs import curves
from kanana_jax.report import pairs, tables
from kanana_jax.report.pairs import Comparison
from kanana_jax.report.results import Run
from kanana_jax.report.tables import Cell

GROWTH = 3.0
PEAK = 2.0
TAIL = 1.25


@dataclass(frozen=True)
class RateOutcome:
    """What one clipped arm did at one learning rate, against the unclipped Muon arms."""

    lr: float
    blew_up: bool
    bounded: bool | None  # None: not run, or no max logit recorded
    comparison: Comparison
    words: str

    @property
    def held(self) -> bool:
        return self.bounded is True and self.comparison.outcome != "worse"


def outcome(arm: str, lr: float, runs: Sequence[Run]) -> RateOutcome:
    """How a clipped arm compares with the unclipped Muon arms at one rate."""
    references = [run for run in arms.at(runs, lr) if arms.is_reference(run)]
    has_blown_up = any(blew_up(cell) for cell in tables.summarize(references))
    own = arms.cell(runs, arm, lr)
    bounded, words = _bounded(own)
    return RateOutcome(lr, has_blown_up, bounded, pairs.compare(own, references), words)


def _bounded(runs: Sequence[Run]) -> tuple[bool | None, str]:
    """Whether the worst seed of a cell stays within the bounds, and the numbers."""
    if not runs:
        return None, "not run"
    (cell,) = tables.summarize(runs)
    if cell.diverged:
        return False, cell.status
    peak, tail = curves.worst_peak(cell), curves.worst_tail(cell)
    if math.isnan(peak):
        return None, "no max logit recorded"
    events = curves.mean_clip_events(cell)
    acted = f"{events:.0f} clip events" if events else "the clip never acted"
    words = f"peak {peak:.2f} x tau, last tenth {tables.number(tail, 2)} x tau, {acted}"
    return peak < PEAK and tail < TAIL, words


def blew_up(cell: Cell) -> bool:
    """Whether the max logit passes GROWTH x tau in every seed."""
    return min(curves.over_tau(run, curves.peak_max_logit(run)) for run in cell.runs) > GROWTH
