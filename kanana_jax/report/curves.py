"""Curves against step: what to draw of which metric, and the drawing.

A figure has one panel per place and one colour per arm. With several seeds the line is their mean
and the band their range. A run that diverged ends in a cross. Letters: N recorded steps.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from kanana_jax.report import canvas, results
from kanana_jax.report.canvas import Look, Sketch
from kanana_jax.report.metrics import Series
from kanana_jax.report.results import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

REFERENCE_STYLE = {"color": "#333333", "linestyle": (0, (4, 2)), "linewidth": 1.1}
BESIDE_LINE = (0, (2, 1.5))


class Reference(NamedTuple):
    """A horizontal line, at one height or at one for each run (None: that run has none)."""

    label: str
    value: float | Callable[[Run], float | None]

    def heights(self, runs: Sequence[Run]) -> list[float]:
        found = [self.value(run) if callable(self.value) else self.value for run in runs]
        return sorted({height for height in found if height is not None})


class Beside(NamedTuple):
    """A second metric in the panel of the first, dashed, for the runs that recorded it."""

    key: str
    label: str  # in the legend


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of a curve, with a y axis of its own."""

    key: str
    label: str  # of the y axis
    is_log: bool = False
    is_smoothed: bool = False  # by the mean over a fiftieth of the run
    is_marked: bool = False  # a dot at every record, for metrics recorded now and then
    reduction: Literal["largest", "mean"] | None = None  # of the array of each record
    bottom: float | None = None
    top: float | None = None
    # The axis fits what living runs reach after a twentieth of their steps: the initial fall and
    # the end of diverged runs would leave no room for the differences between arms.
    fits_trained: bool = False
    references: tuple[Reference, ...] = ()
    beside: Beside | None = None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A figure of metrics against step, for the runs that recorded them."""

    name: str
    title: str
    reading: str  # how to read it; {window} stands for the number of steps that are averaged
    rows: tuple[Row, ...]
    panel_height: float = 3.0  # inches, of each row

    def draw(self, runs: Sequence[Run], look: Look) -> Sketch | None:
        """One panel per place and row; None where no run has a finite value of each metric."""
        keys = [row.key for row in self.rows]
        runs = [run for run in runs if all(len(run.series(key).steps_N) for key in keys)]
        if not any(all(has_finite(run, key) for key in keys) for run in runs):
            return None
        places, window = results.places(runs), smoothing_steps(runs, keys)
        figure, grid = canvas.panels(
            len(places), rows_per_panel=len(keys), panel_height=self.panel_height
        )
        columns = canvas.num_columns(len(places))
        for row, panels in zip(self.rows, grid, strict=True):
            draw_row(row, panels, runs, look, window)
            for panel in panels[::columns]:
                panel.set_ylabel(row.label, fontsize=9.5, color=canvas.INK)
        for column, place in enumerate(places):
            canvas.title(grid[0, column], look.words(place))
            grid[-1, column].set_xlabel("step", fontsize=9.5, color=canvas.INK)
        references = [one for row in self.rows for one in row.references]
        extra = handles(references, runs) + beside_handles(self.rows, runs)
        canvas.legend(figure, runs, look, extra)
        return Sketch(self.title, self.reading.replace("{window}", str(window)), figure)


def draw_row(
    row: Row, panels: Sequence["Axes"], runs: Sequence[Run], look: Look, window: int = 1
) -> None:
    """Draws one metric, each place of the runs into its own panel."""
    for panel, place in zip(panels, results.places(runs), strict=True):
        here = results.select(runs, place=place)
        draw_panel(row, panel, here, look, window)
        for step, color in switches(here, look):
            panel.axvline(step, color=color, linewidth=0.9, linestyle=":", zorder=1)
        if row.beside is not None:
            second = dataclasses.replace(row, key=row.beside.key)
            draw_panel(second, panel, here, look, window, linestyle=BESIDE_LINE)
        for reference in row.references:
            for height in reference.heights(runs):
                panel.axhline(height, zorder=1.5, **REFERENCE_STYLE)
    if row.is_log:
        canvas.log_axis(panels)
    if row.fits_trained:
        fit_trained(panels[0], runs, row)
    if row.bottom is not None or row.top is not None:
        panels[0].set_ylim(row.bottom, row.top)  # the others share it


def draw_panel(
    row: Row,
    panel: "Axes",
    runs: Sequence[Run],
    look: Look,
    window: int = 1,
    linestyle: Any = "-",
) -> None:
    """Draws the runs of one place: mean over seeds, their range, a cross where one diverged."""
    line: dict[str, Any] = {"linestyle": linestyle}
    if row.is_marked:
        line |= {"marker": "o", "markersize": 3.5}
    for arm in results.arms(runs):
        seeds = results.select(runs, arm=arm)
        steps_N, mean_N, low_N, high_N = canvas.over_seeds(
            [picked(row, run, window) for run in seeds]
        )
        if not len(steps_N):
            continue
        color, width = look.colors[arm], look.line_width(arm)
        panel.plot(steps_N, mean_N, color=color, linewidth=width, zorder=2 + width, **line)
        if len(seeds) > 1:
            panel.fill_between(steps_N, low_N, high_N, color=color, alpha=0.18, linewidth=0)
        for run in seeds:
            last = picked(row, run, window).finite()
            if run.diverged and len(last.steps_N):
                panel.plot(
                    last.steps_N[-1], last.values_N[-1], color=color, marker="x", markersize=8,
                    markeredgewidth=2.2, linestyle="", zorder=8,
                )  # fmt: skip


def switches(runs: Sequence[Run], look: Look) -> list[tuple[float, str]]:
    """Where stages begin, in the colour of their arm, or in ink where several arms begin one."""
    arms_at: dict[float, set[str]] = {}
    for run in runs:
        stage = run.series("stage")
        for step in stage.steps_N[1:][np.diff(stage.values_N) > 0]:
            arms_at.setdefault(step - 0.5, set()).add(run.arm)
    return [
        (step, look.colors[min(arms)] if len(arms) == 1 else canvas.INK)
        for step, arms in sorted(arms_at.items())
    ]


def picked(row: Row, run: Run, window: int) -> Series:
    """The series that is drawn for a run."""
    series = run.series(row.key)
    if row.reduction == "largest":
        series = largest(series)
    if row.reduction == "mean":
        series = mean(series)
    if row.is_log:
        series = positive(series)
    return canvas.smooth(series, window) if row.is_smoothed else series


def handles(references: Sequence[Reference], runs: Sequence[Run]) -> list["Line2D"]:
    """Lines for the legend, each with its heights: "chance = 4.85"."""
    from matplotlib.lines import Line2D

    found = [(one.label, one.heights(runs)) for one in references]
    return [
        Line2D([], [], label=f"{label} = {', '.join(f'{x:g}' for x in heights)}", **REFERENCE_STYLE)
        for label, heights in found
        if heights
    ]


def beside_handles(rows: Sequence[Row], runs: Sequence[Run]) -> list["Line2D"]:
    """Lines for the legend, for second metrics that some run recorded."""
    from matplotlib.lines import Line2D

    found = [row.beside for row in rows if row.beside is not None]
    return [
        Line2D([], [], label=one.label, color=canvas.INK, linestyle=BESIDE_LINE)
        for one in found
        if any(has_finite(run, one.key) for run in runs)
    ]


def fit_trained(panel: "Axes", runs: Sequence[Run], row: Row) -> None:
    """Fits the y axis to what living runs reach after a twentieth of their steps.

    For a second metric, only the low end is fitted: it may come from far above.
    """
    values = _trained(runs, row.key)
    if len(values):
        beside = _trained(runs, row.beside.key) if row.beside is not None else values[:0]
        low, high = min([*values, *beside]), max(values)
        margin = 0.04 * max(high - low, 1e-3)
        panel.set_ylim(low - margin, high + margin)


def _trained(runs: Sequence[Run], key: str) -> Float[np.ndarray, "N"]:
    """The finite values of living runs after a twentieth of their steps."""
    seen = [np.zeros(0)]
    for run in runs:
        series = run.series(key).finite()
        if not run.diverged and len(series.steps_N):
            seen.append(series.values_N[series.steps_N >= series.steps_N[-1] / 20])
    return np.concatenate(seen)


def positive(series: Series) -> Series:
    """The part of a series that a logarithmic axis can show."""
    kept_N = series.values_N > 0
    return Series(series.steps_N[kept_N], series.values_N[kept_N])


def largest(series: Series) -> Series:
    """The largest finite entry of each record's array; NaN where there is none."""
    flat_NX = series.values_N.reshape(len(series.steps_N), -1)
    largest_N = np.where(np.isfinite(flat_NX), flat_NX, -np.inf).max(1, initial=-np.inf)
    return Series(series.steps_N, np.where(np.isfinite(largest_N), largest_N, np.nan))


def mean(series: Series) -> Series:
    """The mean of each record's array; NaN where an entry is NaN."""
    flat_NX = series.values_N.reshape(len(series.steps_N), -1)
    return Series(series.steps_N, flat_NX.mean(1))


def has_finite(run: Run, key: str) -> bool:
    """Whether a run recorded a finite value of a metric at least once."""
    return bool(np.isfinite(run.series(key).values_N).any())


def smoothing_steps(runs: Sequence[Run], keys: Sequence[str]) -> int:
    """How many records a smoothed curve averages: a fiftieth of the longest series."""
    return max(1, round(max(len(run.series(key).steps_N) for run in runs for key in keys) / 50))
