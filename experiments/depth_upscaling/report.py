"""The report: stages and claims, and held-out loss against all FLOPs that it took."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.depth_upscaling import verdict
from kanana_jax.report import canvas, results, stages
from kanana_jax.report.canvas import Look, Sketch
from kanana_jax.report.results import Run

SCRATCH = f"{verdict.SCRATCH}: {verdict.EQUAL}"
_DRAWN = (verdict.PARENT, *verdict.GROWTHS, verdict.ON, SCRATCH)


@dataclass(frozen=True, kw_only=True)
class LossOfFlops:
    """A curve for each arm of equal FLOPs; those of grown models begin where the parent's ends."""

    name: str = "loss_of_flops"
    title: str = "Held-out loss against all FLOPs that it took"
    reading: str = (
        "Means over seeds. A grown model begins at its parent's FLOPs, with the loss right after "
        "the growth. Points are the ends of runs from scratch. Lower at the same FLOPs is better."
    )

    def draw(self, runs: Sequence[Run], look: Look) -> Sketch | None:
        from matplotlib.figure import Figure

        drawn = [run for run in runs if run.arm in _DRAWN and not run.diverged]
        grown = [run for run in drawn if run.arm in verdict.GROWTHS]
        if not grown:
            return None
        palette = (*canvas.OTHER_COLORS, *canvas.EMPHASIZED_COLORS)
        colors = dict(zip(results.arms(drawn), palette, strict=False))
        figure = Figure(figsize=(canvas.WIDTH_INCHES, 5.0), dpi=canvas.DPI, layout="constrained")
        panel = figure.subplots()
        canvas.dress(panel)
        for arm, color in colors.items():
            curves = [_curve(runs, run) for run in results.select(drawn, arm=arm)]
            flops_N, loss_N = (np.mean(part, axis=0) for part in zip(*curves, strict=True))
            panel.plot(flops_N, loss_N, color=color, linewidth=1.5)
        for share in verdict.SHARES:
            ends = results.select(runs, arm=f"{verdict.SCRATCH}: {share}")
            if ends and SCRATCH in colors:
                cost = np.mean([verdict.num_flops(run) for run in ends])
                loss = np.mean([run.value("heldout_bpb") for run in ends])
                panel.plot([cost], [loss], color=colors[SCRATCH], marker="o", markersize=6)
        highest = max(_curve(runs, run)[1].max() for run in grown)
        lowest = min(run.value("heldout_bpb") for run in drawn)
        panel.set_ylim(lowest - 0.1 * (highest - lowest), highest + 0.2 * (highest - lowest))
        panel.set_xlabel("FLOPs, the parent's among them", fontsize=9.5)
        panel.set_ylabel("held-out bits per byte", fontsize=9.5)
        canvas.legend(figure, drawn, look._replace(colors=colors))
        return Sketch(self.title, self.reading, figure)


def _curve(runs: Sequence[Run], run: Run) -> tuple[np.ndarray, np.ndarray]:
    """FLOPs and losses, N measurements each."""
    series = run.series("heldout_bpb")
    own = verdict.num_flops(run)
    before = verdict.whole_flops(runs, run) - own
    flops_N, loss_N = before + series.steps_N * own / run.steps, series.values_N
    starts = results.select(runs, arm=verdict.start_of(run.arm))
    at_start = [one.value("heldout_bpb") for one in starts if one.seed == run.seed]
    return (
        np.array([*([before] * len(at_start)), *flops_N]),
        np.array([*at_start, *loss_N]),
    )


def _by_growth(runs: Sequence[Run]) -> str:
    """What each growth saves and needs, a line for each."""
    lines = []
    for name in verdict.GROWTHS:
        saved, regained = verdict.saving(runs, name), verdict.regained(runs, name)
        shares = ", ".join(f"{saved[seed]:+.1%}" for seed in sorted(saved))
        tokens = ", ".join(f"{regained[seed]:.3f}" for seed in sorted(regained))
        lines.append(
            f"{name}: saves {shares or 'nothing that was measured'} of the FLOPs by seed; has the "
            f"parent's loss again after {tokens or 'what was not measured'} of the parent's tokens."
        )
    return "\n".join(lines)


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    headline, found = verdict.judge(runs)
    return stages.write(
        runs,
        about,
        path,
        headline=headline,
        claims_found=found,
        pictures=[LossOfFlops()],
        sections=[("Growths", _by_growth(runs))],
    )
