"""Held-out loss on the target against its tokens, going on and from scratch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.tune_or_scratch import verdict
from kanana_jax.report import canvas, results
from kanana_jax.report.results import Run


@dataclass(frozen=True)
class LossOfTokens:
    """Means over seeds."""

    name: str = "loss_of_tokens"

    def draw(self, runs: Sequence[Run], look: canvas.Look, /) -> canvas.Sketch | None:
        drawn = [run for arm in (verdict.TUNED, verdict.SCRATCH) for run in _of(runs, arm)]
        if not drawn:
            return None
        figure, ((panel,),) = canvas.panels(1, panel_height=4.0)
        for arm in results.arms(drawn):
            found = list(verdict.of_arm(drawn, arm).values())
            loss_N = np.mean([one.loss_N for one in found], axis=0)
            panel.plot(found[0].tokens_N, loss_N, "o-", ms=3.5, color=look.colors[arm])
        panel.set_xlabel("tokens of the target")
        canvas.log_axis([panel], "x")
        panel.set_ylabel("held-out bits per byte, averaged weights")
        canvas.legend(figure, drawn, look)
        return canvas.Sketch(
            "Loss on the target",
            "Where lines cross, training from scratch overtakes what goes on from a base.",
            figure,
        )


def _of(runs: Sequence[Run], arm: str) -> list[Run]:
    return [run for run in results.select(runs, arm=arm) if not run.diverged]
