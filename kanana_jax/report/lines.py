"""Curves against step, one panel per learning rate: what the line plots share."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kanana_jax.report import canvas, results
from kanana_jax.report.metrics import Series
from kanana_jax.report.results import RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

TAU_STYLE = {"color": "#333333", "linestyle": (0, (4, 2)), "linewidth": 1.1}


def draw_rates(
    row: Sequence["Axes"],
    runs: Sequence[RunResult],
    pick: Callable[[RunResult], Series],
    *,
    colored_as: Sequence[RunResult] | None = None,
    marker: str | None = None,
) -> None:
    """Draws a series of every run, each learning rate into its own panel of a row."""
    colors = canvas.colors(colored_as or runs)
    for panel, lr in zip(row, results.lrs(runs), strict=True):
        draw_panel(panel, results.select(runs, lr=lr), pick, colors, marker=marker)


def draw_panel(
    panel: "Axes",
    runs: Sequence[RunResult],
    pick: Callable[[RunResult], Series],
    colors: dict[str, str],
    *,
    marker: str | None = None,
) -> None:
    """Draws the runs of one learning rate: mean over seeds, their range, a cross at a death."""
    for arm in results.arms(runs):
        seeds = results.select(runs, arm=arm)
        steps_N, mean_N, low_N, high_N = canvas.over_seeds([pick(run) for run in seeds])
        if not len(steps_N):
            continue
        color, width = colors[arm], line_width(runs, arm)
        marked = {"marker": marker, "markersize": 3.5} if marker else {}
        panel.plot(steps_N, mean_N, color=color, linewidth=width, zorder=2 + width, **marked)
        if len(seeds) > 1:
            panel.fill_between(steps_N, low_N, high_N, color=color, alpha=0.18, linewidth=0)
        for run in seeds:
            last = pick(run).finite()
            if run.diverged and len(last.steps_N):
                panel.plot(
                    last.steps_N[-1], last.values_N[-1], color=color, marker="x", markersize=8,
                    markeredgewidth=2.2, linestyle="", zorder=8,
                )  # fmt: skip


def line_width(runs: Sequence[RunResult], arm: str) -> float:
    return 2.2 if any(run.clipped for run in results.select(runs, arm=arm)) else 1.5


def finish(
    figure: "Figure",
    axes: np.ndarray,
    runs: Sequence[RunResult],
    labels: Sequence[str],
    *,
    colored_as: Sequence[RunResult] | None = None,
    extra: Sequence["Line2D"] = (),
) -> None:
    """Titles the panels, labels the outer axes and adds the legend."""
    columns = canvas.num_columns(axes.shape[1])
    for column, lr in enumerate(results.lrs(runs)):
        canvas.label_rate(axes[0, column], lr)
        axes[-1, column].set_xlabel("step", fontsize=9.5, color=canvas.INK)
    for row, label in zip(axes, labels, strict=True):
        for panel in row[::columns]:
            panel.set_ylabel(label, fontsize=9.5, color=canvas.INK)
    canvas.legend(figure, runs, extra, colors=canvas.colors(colored_as or runs))


def draw_taus(panel: "Axes", runs: Sequence[RunResult]) -> None:
    """Marks the runs' thresholds on a logarithmic axis of max logits."""
    for tau in results.taus(runs):
        panel.axhline(tau, zorder=1.5, **TAU_STYLE)
    log_axis([panel])


def tau_handle(runs: Sequence[RunResult]) -> "Line2D":
    from matplotlib.lines import Line2D

    words = ", ".join(f"{tau:g}" for tau in results.taus(runs))
    return Line2D([], [], label=f"tau = {words}", **TAU_STYLE)


def log_axis(row: Sequence["Axes"]) -> None:
    """A logarithmic y axis with plain numbers, three to a decade where there is room."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for panel in row:
        panel.set_yscale("log")
        low, high = panel.get_ylim()
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        if high / low < 3000:
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_minor_formatter(NullFormatter())


def limit_to_trained(row: Sequence["Axes"], runs: Sequence[RunResult], key: str) -> None:
    """Fits the y axis to what living runs reach after a twentieth of their steps.

    The fall from the initial loss and the last steps of a diverged run would otherwise leave no
    room for the differences between arms; both simply leave the panel at the top.
    """
    seen = []
    for run in runs:
        series = run.series(key).finite()
        if not run.diverged and len(series.steps_N):
            seen.append(series.values_N[series.steps_N >= series.steps_N[-1] / 20])
    if seen:
        values = np.concatenate(seen)
        margin = 0.04 * max(np.ptp(values), 1e-3)
        row[0].set_ylim(values.min() - margin, values.max() + margin)


def positive(series: Series) -> Series:
    """The part of a series that a logarithmic axis can show."""
    kept_N = series.values_N > 0
    return Series(series.steps_N[kept_N], series.values_N[kept_N])


def largest(series: Series) -> Series:
    """The largest finite entry of each record's array; NaN where there is none."""
    flat_NX = series.values_N.reshape(len(series.steps_N), -1)
    largest_N = np.where(np.isfinite(flat_NX), flat_NX, -np.inf).max(1, initial=-np.inf)
    return Series(series.steps_N, np.where(np.isfinite(largest_N), largest_N, np.nan))
