"""Held-out loss against rate, a line for each arm."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.stabilisers import verdict
from kanana_jax.report import canvas, pairs, results
from kanana_jax.report.results import Run


@dataclass(frozen=True)
class LossOfRate:
    """Means over seeds; a line ends where a seed diverged."""

    name: str = "loss_of_rate"

    def draw(self, runs: Sequence[Run], look: canvas.Look, /) -> canvas.Sketch | None:
        lines = {arm: _line(results.select(runs, arm=arm)) for arm in results.arms(runs)}
        if not any(lines.values()):
            return None
        figure, ((panel,),) = canvas.panels(1, panel_height=4.0)
        for arm, line in lines.items():
            panel.plot(
                [rate for rate, _ in line],
                [loss for _, loss in line],
                "o-",
                ms=4,
                color=look.colors[arm],
            )
        best = min(loss for line in lines.values() for _, loss in line)
        panel.set(xlabel="learning rate", ylim=(best - 0.05, best + 1.0))
        canvas.log_axis([panel], "x")
        panel.set_ylabel("held-out bits per byte")
        canvas.legend(figure, runs, look)
        return canvas.Sketch(
            "Loss against rate",
            "An arm that stands higher rates keeps its loss low further to the right.",
            figure,
        )


def _line(runs: Sequence[Run]) -> list[tuple[float, float]]:
    found = [(dict(place)[verdict.RATE], loss) for place, loss in pairs.losses(runs).items()]
    return sorted(point for point in found if math.isfinite(point[1]))
