"""Held-out loss against training FLOPs, a line for each arm."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.sparsity_law import measures
from kanana_jax.report import canvas
from kanana_jax.report.results import Run


@dataclass(frozen=True)
class LossOfFlops:
    """Means over seeds, at the rate that is best at each budget."""

    name: str = "loss_of_flops"

    def draw(self, runs: Sequence[Run], look: canvas.Look, /) -> canvas.Sketch | None:
        found = measures.of_arms(runs)
        if not found:
            return None
        figure, ((panel,),) = canvas.panels(1, panel_height=4.0)
        for arm, of_arm in found.items():
            first = next(iter(of_arm.values()))
            loss_T = np.mean([curve.loss_N for curve in of_arm.values()], axis=0)
            flops_T = first.tokens_N * measures.flops_per_token(runs, arm)
            panel.plot(flops_T, loss_T, "o-", ms=3.5, color=look.colors[arm])
        panel.set_xlabel("training FLOPs")
        canvas.log_axis([panel], "x")
        panel.set_ylabel("held-out bits per byte, averaged weights")
        canvas.legend(figure, runs, look)
        return canvas.Sketch(
            "Loss against FLOPs",
            "Lower at the same FLOPs is better; a line further to the left needs fewer for a loss.",
            figure,
        )
