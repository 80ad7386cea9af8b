"""The table of a sweep: the seeds of each arm and learning rate, boiled down to one cell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kanana_jax.report import results
from kanana_jax.report.results import RunResult


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm at one learning rate. Max logits are the worst seed's, divided by tau."""

    arm: str
    lr: float
    clipped: bool
    is_muon: bool
    num_seeds: int
    tau: float
    diverged: tuple[tuple[int, int | None], ...]  # (seed, step) of every run that diverged
    heldout_bpb: float  # mean over seeds that finished
    heldout_error: float  # standard deviation over seeds; with one seed its sampling error
    peak: float  # largest max logit over tau, worst seed
    mildest_peak: float  # the same of the best seed
    tail: float  # mean over the last tenth of steps over tau, worst seed
    clip_events: float  # heads clipped, summed over steps, mean over seeds

    @property
    def status(self) -> str:
        """`ok`, or which of the seeds diverged and when."""
        if not self.diverged:
            return "ok"
        steps = sorted({step for _, step in self.diverged if step is not None})
        when = f" at step {', '.join(map(str, steps))}" if steps else ""
        some = f"{len(self.diverged)} of {self.num_seeds} " if self.num_seeds > 1 else ""
        return f"{some}diverged{when}"


def summarize(runs: Sequence[RunResult]) -> list[Cell]:
    """A cell for every arm and learning rate that ran, by learning rate, then in arm order."""
    order = [(lr, arm) for lr in results.lrs(runs) for arm in results.arms(runs)]
    seeds = [results.select(runs, arm=arm, lr=lr) for lr, arm in order]
    return [_cell(one) for one in seeds if one]


def _cell(seeds: Sequence[RunResult]) -> Cell:
    first = seeds[0]
    finals = np.array([run.final_heldout_bpb for run in seeds if not run.diverged])
    finals = finals[np.isfinite(finals)]
    if len(finals) > 1:
        error = float(np.std(finals, ddof=1))
    else:
        living = [run.final_heldout_bpb_stderr for run in seeds if not run.diverged]
        error = living[0] if living else math.nan
    peaks = [run.peak_max_logit / run.tau for run in seeds]
    return Cell(
        arm=first.arm,
        lr=first.lr,
        clipped=first.clipped,
        is_muon=first.is_muon,
        num_seeds=len(seeds),
        tau=first.tau,
        diverged=tuple((run.seed, run.diverged_step) for run in seeds if run.diverged),
        heldout_bpb=float(finals.mean()) if len(finals) else math.nan,
        heldout_error=error,
        peak=max(peaks),
        mildest_peak=min(peaks),
        tail=max(run.tail_max_logit / run.tau for run in seeds),
        clip_events=float(np.mean([run.clip_events for run in seeds])),
    )


COLUMNS = (
    "learning rate",
    "arm",
    "held-out bits per byte",
    "peak max logit",
    "peak / tau",
    "last tenth / tau",
    "clip events",
    "status",
)
WORD_COLUMNS = (1, len(COLUMNS) - 1)  # read from the left; numbers line up on the right


def rows(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """The table as words, one tuple per cell in the order of COLUMNS."""
    return [
        (
            f"{cell.lr:g}",
            cell.arm,
            with_error(cell.heldout_bpb, cell.heldout_error),
            number(cell.peak * cell.tau, 1),
            number(cell.peak, 2),
            number(cell.tail, 2),
            f"{cell.clip_events:.0f}" if cell.clipped else "-",
            cell.status,
        )
        for cell in cells
    ]


def text_table(cells: Sequence[Cell]) -> str:
    """The table in plain aligned text, with a rule between learning rates."""
    body = rows(cells)
    widths = [max(len(row[i]) for row in [COLUMNS, *body]) for i in range(len(COLUMNS))]
    rule = "  ".join("-" * width for width in widths)
    lines = [_aligned(COLUMNS, widths)]
    previous = None
    for row in body:
        if row[0] != previous:
            lines.append(rule)
        lines.append(_aligned(row, widths))
        previous = row[0]
    return "\n".join(lines) + "\n"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        text.ljust(width) if index in WORD_COLUMNS else text.rjust(width)
        for index, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def number(value: float, decimals: int) -> str:
    """Fixed decimals; `-` when not measured, `inf` when it is."""
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"


def with_error(value: float, error: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if math.isnan(error) else f"{value:.4f} +- {error:.4f}"
