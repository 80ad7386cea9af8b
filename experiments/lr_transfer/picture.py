"""Loss against rate at every width, a panel for each rule."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.lr_transfer import verdict
from kanana_jax.report import canvas
from kanana_jax.report.results import Run


@dataclass(frozen=True)
class Optima:
    """Mean losses over seeds; if a rule fits, all widths have their least loss at one rate."""

    name: str = "optima"

    def draw(self, runs: Sequence[Run], look: canvas.Look, /) -> canvas.Sketch | None:
        found = verdict.sweeps(runs)
        if not any(len(sweep.rate_R) for of_rule in found.values() for sweep in of_rule.values()):
            return None
        figure, table = canvas.panels(len(found))
        for axes, (rule, of_rule) in zip(table[0], found.items(), strict=True):
            for number, (width, sweep) in enumerate(sorted(of_rule.items())):
                rates = np.unique(sweep.rate_R)
                means = [sweep.loss_R[sweep.rate_R == rate].mean() for rate in rates]
                color = canvas.OTHER_COLORS[number % len(canvas.OTHER_COLORS)]
                axes.plot(rates, means, "o-", ms=3.5, color=color, label=f"width {width:g}")
                axes.plot(sweep.rate_R, sweep.loss_R, ".", ms=3, alpha=0.5, color=color)
            axes.set_xlabel("learning rate at the base width")
            canvas.title(axes, rule)
        canvas.log_axis(table[0], "x")
        table[0, 0].set_ylabel("held-out bits per byte")
        handles, labels = table[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
        return canvas.Sketch(
            "Loss against rate by width",
            "A rule that keeps the best rate has all widths' least losses above one another.",
            figure,
        )
