"""Time to first audio and underruns against the number of listeners."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.speech_serving import verdict
from kanana_jax.jobs.spoken_load import LISTENERS
from kanana_jax.report import canvas, results
from kanana_jax.report.results import Run

_PANELS = (
    (verdict.TTFA, "seconds to first audio, p95"),
    ("underruns_per_minute", "underruns per minute of sound"),
    ("rtf", "seconds to the last byte, per second of sound"),
)


@dataclass(frozen=True)
class Waits:
    """Means over seeds, with each seed as a dot."""

    name: str = "waits"

    def draw(self, runs: Sequence[Run], look: canvas.Look, /) -> canvas.Sketch | None:
        figure, table = canvas.panels(len(_PANELS))
        for axes, (key, label) in zip(table[0], _PANELS, strict=True):
            for arm in results.arms(runs):
                some = [run for run in runs if run.arm == arm]
                loads = sorted({run.axes[LISTENERS] for run in some})
                points = [[r.value(key) for r in some if r.axes[LISTENERS] == x] for x in loads]
                color = look.colors[arm]
                axes.plot(loads, [np.mean(one) for one in points], "o-", color=color, label=arm)
                for load, values in zip(loads, points, strict=True):
                    axes.plot([load] * len(values), values, ".", color=color, alpha=0.5)
            axes.set(xlabel="listeners at once")
            canvas.title(axes, label)
        handles, labels = table[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
        return canvas.Sketch(
            "What listeners wait for",
            "Lower is better. Where all fit in a turn the policies are the same.",
            figure,
        )
