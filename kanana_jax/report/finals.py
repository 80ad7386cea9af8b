"""The loss at the end of training against the value on an axis, a curve per arm."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kanana_jax.report import canvas, results, tables
from kanana_jax.report.canvas import Look, Sketch
from kanana_jax.report.results import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class Finals:
    """Held-out loss at the end, for comparisons with one axis of several values."""

    name: str = "final_loss"
    title: str = "Final held-out bits per byte against {axis}"  # {axis}: what it is called
    reading: str = (
        "The flat bottom of each curve is the range of values the arm tolerates; error bars are "
        "the spread over seeds or, with one seed, the sampling error of the held-out text."
    )
    axis_label: str = "{axis}"

    def draw(self, runs: Sequence[Run], look: Look) -> Sketch | None:
        """Diverged runs stand at the top edge. None without one axis of several values."""
        from matplotlib.figure import Figure

        axis = only_axis(runs)
        if axis is None or not any(math.isfinite(run.value("heldout_bpb")) for run in runs):
            return None
        figure = Figure(figsize=(canvas.WIDTH_INCHES, 4.4), dpi=canvas.DPI, layout="constrained")
        panel = figure.subplots()
        canvas.dress(panel)
        draw_finals(panel, runs, look)
        name = (results.short_names([axis]) | dict(look.names))[axis]
        panel.set_xlabel(self.axis_label.replace("{axis}", name), fontsize=9.5)
        panel.set_ylabel("final held-out bits per byte", fontsize=9.5)
        canvas.legend(figure, runs, look)
        return Sketch(self.title.replace("{axis}", name), self.reading, figure)


def only_axis(runs: Sequence[Run]) -> str | None:
    """The axis besides arm and seed, where it is the only one and has several values."""
    axes = results.place_axes(runs)
    return axes[0] if len(axes) == 1 and len(results.values_of(runs, axes[0])) > 1 else None


def draw_finals(panel: "Axes", runs: Sequence[Run], look: Look) -> None:
    """Draws final held-out loss against the runs' only axis into `panel`."""
    positions, summary = _positions(runs), tables.summarize(runs)
    num_arms = len(look.colors)
    for index, (arm, color) in enumerate(look.colors.items()):
        # Arms stand side by side, a few percent of a decade apart, so that none hides another.
        shift = 0.012 * (index - (num_arms - 1) / 2)
        cells = [cell for cell in summary if cell.arm == arm and cell.place in positions]
        kept = [cell for cell in cells if math.isfinite(cell.heldout_bpb)]
        if kept:
            mean_P = [cell.heldout_bpb for cell in kept]
            error_P = np.nan_to_num([cell.heldout_error for cell in kept])
            panel.errorbar(
                [positions[cell.place] + shift for cell in kept], mean_P, yerr=error_P, color=color,
                marker="o", markersize=5, linewidth=look.line_width(arm), elinewidth=1.2,
                capsize=2.5,
            )  # fmt: skip
    panel.set_xticks(list(positions.values()), [results.words(place[0][1]) for place in positions])
    panel.margins(x=0.08)
    _mark_diverged(panel, runs, look, positions)


def _positions(runs: Sequence[Run]) -> Mapping[results.Place, float]:
    """Where each place stands: positive numbers by their decimal logarithm, others side by side."""
    places = [place for place in results.places(runs) if place]
    values: list[Any] = [place[0][1] for place in places]
    if results.are_numbers(values) and min(values) > 0:
        return {place: math.log10(value) for place, value in zip(places, values, strict=True)}
    return {place: float(index) for index, place in enumerate(places)}


def _mark_diverged(
    panel: "Axes", runs: Sequence[Run], look: Look, positions: Mapping[results.Place, float]
) -> None:
    dead = [run for run in runs if run.diverged and run.place in positions]
    if not dead:
        return
    if any(math.isfinite(run.value("heldout_bpb")) for run in runs):
        low, high = panel.get_ylim()
        panel.set_ylim(low, high + 0.16 * (high - low))
    transform = panel.get_xaxis_transform()
    for place in results.places(dead):
        arms = results.arms(results.select(dead, place=place))
        for lane, arm in enumerate(arms):
            panel.plot(
                positions[place] + 0.03 * (lane - (len(arms) - 1) / 2), 0.965, marker="x",
                markersize=8, markeredgewidth=2.2, color=look.colors[arm], transform=transform,
                clip_on=False, linestyle="",
            )  # fmt: skip
        panel.text(
            positions[place], 0.925, "diverged", transform=transform, ha="center", va="top",
            fontsize=8.5, color=canvas.INK,
        )  # fmt: skip
