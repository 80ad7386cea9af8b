"""Max logits of every layer and head at a few moments of training, one row of maps per arm.

Letters: L layers, H heads.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from kanana_jax.report import canvas, results
from kanana_jax.report.results import RunResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


COLORS = "RdBu_r"


def max_logits(
    runs: Sequence[RunResult],
    *,
    colors: dict[str, str] | None = None,
    num_snapshots: int = 5,
) -> "Figure":
    """Layer by head maps of the first seed of each arm, on one logarithmic scale around its tau.

    White is tau, red is above it, blue below. A run that ended early leaves the later maps empty.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    rows = [results.select(runs, arm=arm)[0] for arm in results.arms(runs)]
    rows = [run for run in rows if len(run.series("max_logits").steps_N)]
    last = max(int(run.series("max_logits").steps_N[-1]) for run in rows)
    moments = np.unique(np.linspace(0, last, num_snapshots + 1)[1:].round().astype(int)).tolist()
    norm, ticks = _scale(rows, moments)
    figure = Figure(
        figsize=(canvas.WIDTH_INCHES, 0.8 + 1.55 * len(rows)), dpi=canvas.DPI, layout="constrained"
    )
    grid = figure.subplots(len(rows), len(moments), squeeze=False, sharex=True, sharey=True)
    colors = colors or canvas.colors(runs)
    for row, run in zip(grid, rows, strict=True):
        for panel, step in zip(row, moments, strict=True):
            snapshot_LH = _snapshot(run, step)
            if snapshot_LH is None:
                _draw_end(panel, run)
            else:
                _draw_map(panel, snapshot_LH, norm)
        row[0].set_ylabel(f"{run.arm}\nlayer", fontsize=9.5, color=canvas.INK)
        row[0].yaxis.label.set_color(colors[run.arm])
    for panel, step in zip(grid[0], moments, strict=True):
        panel.set_title(f"step {step}", fontsize=10, loc="left", color=canvas.INK)
    for panel in grid[-1]:
        panel.set_xlabel("head", fontsize=9.5, color=canvas.INK)
    scale = ScalarMappable(norm, COLORS)
    bar = figure.colorbar(scale, ax=grid, fraction=0.025, pad=0.01, ticks=list(ticks))
    bar.ax.set_yticklabels([f"{tick:.3g} tau" if tick != 1 else "tau" for tick in ticks])
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=9, colors=canvas.INK)
    bar.outline.set_visible(False)
    bar.set_label("max logit", fontsize=9.5, color=canvas.INK)
    return figure


def _scale(rows: Sequence[RunResult], moments: Sequence[int]):
    """Log colours, symmetric around tau, wide enough for the largest value shown."""
    from matplotlib.colors import LogNorm

    shown = [_snapshot(run, step) for run in rows for step in moments]
    top = max(float(np.max(one, initial=0.0)) for one in map(_finite, shown))
    # At least a decade each way, so that a calm run is not painted in alarming colours.
    reach = max(top, 10.0)
    multiples = [m for m in (3, 10, 30, 100, 300, 1000) if m <= reach]
    ticks = [1 / m for m in reversed(multiples)] + [1.0] + [float(m) for m in multiples]
    return LogNorm(1 / reach, reach), ticks


def _finite(values: np.ndarray | None) -> np.ndarray:
    return np.zeros(0) if values is None else values[np.isfinite(values)]


def _snapshot(run: RunResult, step: int) -> Float[np.ndarray, "L H"] | None:
    """The newest map at or before a step, over tau; None when the run ended before it."""
    series = run.series("max_logits")
    interval = int(np.max(np.diff(series.steps_N), initial=1))
    index = int(np.searchsorted(series.steps_N, step, side="right")) - 1
    if index < 0 or step - series.steps_N[index] > interval:
        return None
    return series.values_N[index].astype(float) / run.tau


def _draw_map(panel, snapshot_LH: Float[np.ndarray, "L H"], norm):
    # A head that saw nothing, or whose largest logit is negative, is as cold as the scale goes.
    shown_LH = np.where(np.isnan(snapshot_LH), np.nan, np.clip(snapshot_LH, norm.vmin, norm.vmax))
    panel.imshow(
        np.ma.masked_invalid(shown_LH),
        norm=norm,
        cmap=COLORS,
        aspect="auto",
        interpolation="nearest",
    )
    _dress(panel, snapshot_LH.shape)


def _dress(panel, shape: tuple[int, int]) -> None:
    from matplotlib.ticker import MaxNLocator

    for axis, count in zip((panel.yaxis, panel.xaxis), shape, strict=True):
        axis.set_major_locator(MaxNLocator(min(count, 5), integer=True))
    panel.spines[:].set_visible(False)
    panel.tick_params(labelsize=8.5, length=2, colors=canvas.INK)


def _draw_end(panel, run: RunResult) -> None:
    panel.spines[:].set_visible(False)
    panel.tick_params(labelsize=8.5, length=0, colors=canvas.INK)
    step = "" if run.diverged_step is None else f"\nat step {run.diverged_step}"
    words = f"diverged{step}" if run.diverged else "not recorded"
    panel.text(
        0.5, 0.5, words, transform=panel.transAxes, ha="center", va="center", fontsize=9,
        color="#777777",
    )  # fmt: skip
