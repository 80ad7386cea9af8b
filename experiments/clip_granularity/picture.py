"""The share of heads over tau against step, a panel for each rate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.clip_granularity import verdict
from kanana_jax.report import canvas, results
from kanana_jax.report.results import Run

_WINDOWS = 30  # in a run, each drawn as its mean


@dataclass(frozen=True)
class OverTau:
    """Means over seeds."""

    name: str = "over_tau"

    def draw(self, runs: Sequence[Run], look: canvas.Look, /) -> canvas.Sketch | None:
        runs = [run for run in runs if verdict.over_tau(run).size]
        if not runs:
            return None
        places = results.places(runs)
        figure, grid = canvas.panels(len(places))
        for panel, place in zip(grid.flat, places, strict=False):
            for arm in results.arms(runs):
                here = results.select(runs, arm=arm, place=place)
                if not here:
                    continue
                shares = [
                    [part.mean() for part in np.array_split(verdict.over_tau(run), _WINDOWS)]
                    for run in here
                    if len(verdict.over_tau(run)) >= _WINDOWS
                ]
                if shares:
                    step_W = (np.arange(_WINDOWS) + 0.5) * here[0].steps / _WINDOWS
                    panel.plot(step_W, np.mean(shares, axis=0), color=look.colors[arm])
            canvas.title(panel, look.words(place))
            panel.set(xlabel="step", ylim=(0, 1.02))
        grid[0, 0].set_ylabel("share of heads over tau")
        canvas.legend(figure, runs, look)
        return canvas.Sketch(
            "Heads over tau",
            "The share of all heads whose largest logit passes tau, before the step's clip. A clip "
            "that becomes idle ends at 0.",
            figure,
        )
