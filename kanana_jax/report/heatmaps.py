"""Maps of a metric that is a matrix, at a few moments of training, one row of maps per arm.

Letters: L lines of the matrix, H its columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from kanana_jax.report import canvas, results
from kanana_jax.report.canvas import Look, Sketch
from kanana_jax.report.results import Place, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


COLORS = "RdBu_r"


@dataclass(frozen=True, kw_only=True)
class Map:
    """Maps of the runs at one place, over a reference that each run has."""

    name: str
    title: str
    reading: str
    key: str
    reference: Callable[[Run], float | None]  # None: the run has none and is left out
    unit: str  # what the reference is called
    line: str  # what a line of the matrix is, and a column
    column: str
    label: str  # of the colours
    # The place that is shown; None: where the metric gets highest over the reference.
    choose: Callable[[Sequence[Run]], Place] | None = None
    num_snapshots: int = 5
    # Colours reach at least this many times the reference, so a calm run does not look alarming.
    least_reach: float = 10.0

    def draw(self, runs: Sequence[Run], look: Look) -> Sketch | None:
        """The first seed of each arm; None where no run recorded the metric."""
        runs = [run for run in runs if self.reference(run) and len(run.series(self.key).steps_N)]
        if not any(len(_finite(self.over_reference(run))) for run in runs):
            return None
        place = (self.choose or self._highest)(runs)
        here = results.select(runs, place=place)
        words = look.words(place)
        title = f"{self.title}, {words}" if words else self.title
        return Sketch(title, self.reading, _figure(self, here, look))

    def over_reference(self, run: Run) -> np.ndarray:
        """Every record of the metric over the run's reference."""
        reference = self.reference(run)
        assert reference is not None
        return run.series(self.key).values_N.astype(float) / reference

    def _highest(self, runs: Sequence[Run]) -> Place:
        tops = {
            place: max(
                float(np.max(_finite(self.over_reference(run)), initial=0.0))
                for run in results.select(runs, place=place)
            )
            for place in results.places(runs)
        }
        return max(tops, key=tops.__getitem__)


def _figure(spec: Map, runs: Sequence[Run], look: Look) -> "Figure":
    """One logarithmic scale around the reference: white is the reference, red above, blue below.

    A run that ended early leaves the later maps empty.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    rows = [results.select(runs, arm=arm)[0] for arm in results.arms(runs)]
    last = max(int(run.series(spec.key).steps_N[-1]) for run in rows)
    moments = np.linspace(0, last, spec.num_snapshots + 1)[1:].round().astype(int)
    moments = np.unique(moments).tolist()
    norm, ticks = _scale(spec, rows, moments)
    figure = Figure(
        figsize=(canvas.WIDTH_INCHES, 0.8 + 1.55 * len(rows)), dpi=canvas.DPI, layout="constrained"
    )
    grid = figure.subplots(len(rows), len(moments), squeeze=False, sharex=True, sharey=True)
    for row, run in zip(grid, rows, strict=True):
        for panel, step in zip(row, moments, strict=True):
            snapshot_LH = snapshot(spec, run, step)
            if snapshot_LH is None:
                _draw_end(panel, run)
            else:
                _draw_map(panel, snapshot_LH, norm)
        row[0].set_ylabel(f"{run.arm}\n{spec.line}", fontsize=9.5, color=look.colors[run.arm])
    for panel, step in zip(grid[0], moments, strict=True):
        panel.set_title(f"step {step}", fontsize=10, loc="left", color=canvas.INK)
    for panel in grid[-1]:
        panel.set_xlabel(spec.column, fontsize=9.5, color=canvas.INK)
    scale = ScalarMappable(norm, COLORS)
    bar = figure.colorbar(scale, ax=grid, fraction=0.025, pad=0.01, ticks=list(ticks))
    labels = [f"{tick:.3g} {spec.unit}" if tick != 1 else spec.unit for tick in ticks]
    bar.ax.set_yticklabels(labels)
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=9, colors=canvas.INK)
    bar.outline.set_visible(False)
    bar.set_label(spec.label, fontsize=9.5, color=canvas.INK)
    return figure


def _scale(spec: Map, rows: Sequence[Run], moments: Sequence[int]):
    """Log colours, symmetric around the reference, wide enough for the largest value shown."""
    from matplotlib.colors import LogNorm

    shown = [snapshot(spec, run, step) for run in rows for step in moments]
    top = max(float(np.max(one, initial=0.0)) for one in map(_finite, shown))
    reach = max(top, spec.least_reach)
    multiples = [m for m in (3, 10, 30, 100, 300, 1000) if m <= reach]
    ticks = [1 / m for m in reversed(multiples)] + [1.0] + [float(m) for m in multiples]
    return LogNorm(1 / reach, reach), ticks


def _finite(values: np.ndarray | None) -> np.ndarray:
    return np.zeros(0) if values is None else values[np.isfinite(values)]


def snapshot(spec: Map, run: Run, step: int) -> Float[np.ndarray, "L H"] | None:
    """The newest map at or before a step, over the reference; None when the run ended before it."""
    steps_N = run.series(spec.key).steps_N
    interval = int(np.max(np.diff(steps_N), initial=1))
    index = int(np.searchsorted(steps_N, step, side="right")) - 1
    if index < 0 or step - steps_N[index] > interval:
        return None
    return spec.over_reference(run)[index]


def _draw_map(panel, snapshot_LH: Float[np.ndarray, "L H"], norm):
    # Values that are not positive get the coldest colour.
    shown_LH = np.minimum(np.maximum(snapshot_LH, norm.vmin), norm.vmax)  # keeps NaN
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


def _draw_end(panel, run: Run) -> None:
    panel.spines[:].set_visible(False)
    panel.tick_params(labelsize=8.5, length=0, colors=canvas.INK)
    step = "" if run.diverged_step is None else f"\nat step {run.diverged_step}"
    words = f"diverged{step}" if run.diverged else "not recorded"
    panel.text(
        0.5, 0.5, words, transform=panel.transAxes, ha="center", va="center", fontsize=9,
        color="#777777",
    )  # fmt: skip
