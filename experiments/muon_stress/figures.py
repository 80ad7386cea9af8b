"""The pictures of the report: those of every training job, and the two that matter side by side."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from experiments.muon_stress import arms
from kanana_jax.jobs import curves
from kanana_jax.report import canvas, results, tables
from kanana_jax.report import curves as drawing
from kanana_jax.report.canvas import Look, Picture, Sketch
from kanana_jax.report.finals import Finals, draw_finals, only_axis
from kanana_jax.report.results import Place, Run

NAMES = {arms.RATE: "learning rate"}  # what axes are called in figures and the table

FINALS = Finals(
    reading=(
        "The flat bottom of each curve is the range of rates the arm tolerates; error bars "
        "are the spread over seeds or, with one seed, the sampling error of the held-out text."
    ),
    axis_label="peak {axis}",
)


def telling_place(runs: Sequence[Run]) -> Place:
    """Where an unclipped Muon arm (or, without one, any arm) peaks highest."""
    peaks = [(curves.worst_peak(cell), cell) for cell in tables.summarize(runs)]
    measured = [(peak, cell) for peak, cell in peaks if not math.isnan(peak)]
    references = [(peak, cell) for peak, cell in measured if arms.is_reference(cell.runs[0])]
    # Several arms may have reached infinity; the largest rate among them tells most.
    _, top = max(references or measured or peaks, key=lambda one: (one[0], arms.lr(one[1].runs[0])))
    return top.place


@dataclasses.dataclass(frozen=True)
class Overview:
    """Max logit at the telling rate, and final loss against every rate."""

    name: str = "overview"

    def draw(self, runs: Sequence[Run], look: Look) -> Sketch | None:
        from matplotlib.figure import Figure

        row, place = curves.MAX_LOGIT_ROW, telling_place(runs)
        here = results.select(runs, place=place)
        recorded = any(drawing.has_finite(run, row.key) for run in here)
        if only_axis(runs) is None or not recorded:
            return None
        figure = Figure(figsize=(canvas.WIDTH_INCHES, 4.4), dpi=canvas.DPI, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
        for panel in (left, right):
            canvas.dress(panel)
        drawing.draw_row(row, [left], here, look)
        canvas.title(left, f"Max attention logit at {look.words(place)}")
        left.set_xlabel("step", fontsize=9.5)
        draw_finals(right, runs, look)
        right.set_xlabel("peak learning rate", fontsize=9.5)
        canvas.title(right, "Final held-out bits per byte")
        canvas.legend(figure, runs, look, drawing.handles(row.references, here))
        reading = (
            "Left: the largest attention logit, on a log scale; unbounded growth climbs, a working "
            "clip stays near the dashed tau. Right: lower is better, and an arm that stays low "
            "further to the right tolerates larger rates."
        )
        return Sketch("In short", reading, figure)


def pictures() -> Iterator[Picture]:
    """In the order of the page."""
    yield Overview()
    for one in curves.TRAINING:
        yield (
            dataclasses.replace(curves.MAX_LOGIT_HEADS, choose=telling_place)
            if one is curves.MAX_LOGIT_HEADS
            else one
        )
        if one is curves.HELDOUT_BPB:
            yield FINALS
