"""The reliability diagram: how often answers are right, by how sure the model was of them.

One panel per kind of confidence, one curve per arm, the mean over seeds of every bin. On the dashed
line confidence is accuracy; below it a model is too sure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from kanana_jax.report import canvas, results
from kanana_jax.report.canvas import Look, Sketch
from kanana_jax.report.results import Run

_KEYS = ("heldout_bin_confidence", "heldout_bin_accuracy")


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """The last bins of each kind, heldout_bin_confidence_KIND and heldout_bin_accuracy_KIND."""

    kinds: tuple[str, ...]
    name: str = "reliability"
    title: str = "Confidence and accuracy"
    reading: str = (
        "Held-out answers in bins of equal mass, by confidence. On the dashed line the model is as "
        "often right as it is sure; below it, it is too sure."
    )

    def draw(self, runs: Sequence[Run], look: Look) -> Sketch | None:
        """None unless a run recorded bins."""
        runs = [run for run in runs if any(len(_bins(run, kind)[0]) for kind in self.kinds)]
        if not runs:
            return None
        figure, grid = canvas.panels(len(self.kinds))
        for panel, kind in zip(grid[0], self.kinds, strict=True):
            panel.plot([0, 1], [0, 1], color=canvas.INK, linewidth=0.8, linestyle=(0, (4, 3)))
            for arm in results.arms(runs):
                confidence_B, accuracy_B = _means(results.select(runs, arm=arm), kind)
                panel.plot(
                    confidence_B, accuracy_B, color=look.colors[arm],
                    linewidth=look.line_width(arm), marker="o", markersize=4,
                )  # fmt: skip
            panel.set_xlim(0, 1)
            panel.set_ylim(0, 1)
            panel.set_xlabel("confidence", fontsize=9.5, color=canvas.INK)
            canvas.title(panel, kind)
        grid[0, 0].set_ylabel("share that is right", fontsize=9.5, color=canvas.INK)
        canvas.legend(figure, runs, look)
        return Sketch(self.title, self.reading, figure)


def _bins(run: Run, kind: str) -> tuple[Float[np.ndarray, "B"], Float[np.ndarray, "B"]]:
    """Mean confidence and accuracy of every bin; empty where the run recorded none."""
    confidence_B, accuracy_B = (
        values[-1] if len(values := run.series(f"{key}_{kind}").values_N) else np.zeros(0)
        for key in _KEYS
    )
    return confidence_B, accuracy_B


def _means(runs: Sequence[Run], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The means over the runs that have bins."""
    found = [np.stack(_bins(run, kind)) for run in runs if len(_bins(run, kind)[0])]
    if not found:
        return np.zeros(0), np.zeros(0)
    stacked = np.stack(found)
    is_bin_B = np.isfinite(stacked).any(axis=(0, 1))
    confidence_B, accuracy_B = np.nanmean(stacked[:, :, is_bin_B], axis=0)
    return confidence_B, accuracy_B
