"""A metric that has a number for each layer, at the end of training, against depth.

One panel per place, one curve per arm: the mean over seeds, and their range. Letters: L layers,
K seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from kanana_jax.report import canvas, results
from kanana_jax.report.canvas import Look, Sketch
from kanana_jax.report.results import Run


@dataclass(frozen=True, kw_only=True)
class Depths:
    """The last record of a metric, an array over layers."""

    name: str
    title: str
    reading: str
    key: str
    label: str  # of the y axis
    line: str = "MoE layer"  # what the array is over

    def draw(self, runs: Sequence[Run], look: Look) -> Sketch | None:
        """None unless a run recorded two layers or more."""
        runs = [run for run in runs if len(self.last(run)) > 1]
        if not runs:
            return None
        places = results.places(runs)
        figure, grid = canvas.panels(len(places))
        for column, place in enumerate(places):
            panel = grid[0, column]
            self._draw_panel(panel, results.select(runs, place=place), look)
            canvas.title(panel, look.words(place))
            panel.set_xlabel(self.line, fontsize=9.5, color=canvas.INK)
        for panel in grid[0, :: canvas.num_columns(len(places))]:
            panel.set_ylabel(self.label, fontsize=9.5, color=canvas.INK)
        grid[0, 0].set_ylim(bottom=0.0)  # the others share it
        canvas.legend(figure, runs, look)
        return Sketch(self.title, self.reading, figure)

    def last(self, run: Run) -> Float[np.ndarray, "L"]:
        """Empty where the run recorded none."""
        values_N = run.series(self.key).values_N
        return values_N[-1] if len(values_N) else np.zeros(0)

    def _draw_panel(self, panel, runs: Sequence[Run], look: Look) -> None:
        from matplotlib.ticker import MaxNLocator

        for arm in results.arms(runs):
            value_KL = np.stack([self.last(run) for run in results.select(runs, arm=arm)])
            layer_L, color = np.arange(value_KL.shape[1]), look.colors[arm]
            panel.plot(
                layer_L, value_KL.mean(0), color=color, linewidth=look.line_width(arm), marker="o",
                markersize=3.5,
            )  # fmt: skip
            if len(value_KL) > 1:
                low_L, high_L = value_KL.min(0), value_KL.max(0)
                panel.fill_between(layer_L, low_L, high_L, color=color, alpha=0.18, linewidth=0)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
