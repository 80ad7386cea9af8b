"""From runs to figures. Every function takes finished runs and returns a matplotlib Figure.

A figure has one panel per learning rate and one colour per arm. With several seeds the line is
their mean and the band their range. A run that diverged ends in a cross. Letters: N recorded steps,
L layers, H heads.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kanana_jax.report import canvas, lines, results
from kanana_jax.report.results import RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Runs = Sequence[RunResult]


def loss(runs: Runs) -> "Figure":
    """Training loss against step."""
    window = smoothing_steps(runs)
    figure, axes = canvas.panels(len(results.lrs(runs)))
    lines.draw_rates(axes[0], runs, lambda run: canvas.smooth(run.series("loss"), window))
    lines.limit_to_trained(axes[0], runs, "loss")
    lines.finish(figure, axes, runs, ["training loss (nats per token)"])
    return figure


def heldout_bpb(runs: Runs) -> "Figure":
    """Bits per byte of held-out text against step."""
    figure, axes = canvas.panels(len(results.lrs(runs)))
    lines.draw_rates(axes[0], runs, lambda run: run.series("heldout_bpb"), marker="o")
    lines.limit_to_trained(axes[0], runs, "heldout_bpb")
    lines.finish(figure, axes, runs, ["held-out bits per byte"])
    return figure


def max_logit(runs: Runs) -> "Figure":
    """Largest attention logit of all layers and heads against step, with tau."""
    figure, axes = canvas.panels(len(results.lrs(runs)))
    lines.draw_rates(axes[0], runs, lambda run: lines.positive(run.series("max_logit")))
    for panel in axes[0]:
        lines.draw_taus(panel, runs)
    lines.finish(figure, axes, runs, ["max attention logit"], extra=[lines.tau_handle(runs)])
    return figure


def clipping(runs: Runs) -> "Figure":
    """Heads clipped per step, and the smallest factor gamma, of the arms that clip."""
    clipped = [run for run in runs if run.clipped]
    figure, axes = canvas.panels(len(results.lrs(clipped)), rows_per_panel=2, panel_height=2.1)
    lines.draw_rates(axes[0], clipped, colored_as=runs, pick=lambda run: run.series("clip_count"))
    lines.draw_rates(axes[1], clipped, colored_as=runs, pick=lambda run: run.series("min_gamma"))
    for panel in axes[0]:
        panel.set_ylim(bottom=0)
    for panel in axes[1]:
        panel.set_ylim(0, 1.05)
    lines.finish(figure, axes, clipped, ["heads clipped", "smallest gamma"], colored_as=runs)
    return figure


def final_loss(runs: Runs) -> "Figure":
    """Final held-out bits per byte against learning rate; diverged runs at the top edge."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(canvas.WIDTH_INCHES, 4.4), dpi=canvas.DPI, layout="constrained")
    panel = figure.subplots()
    canvas.dress(panel)
    draw_final_loss(panel, runs)
    canvas.legend(figure, runs, colors=canvas.colors(runs))
    return figure


def overview(runs: Runs, lr: float) -> "Figure":
    """The two pictures that matter: max logit at one rate, and final loss against every rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(canvas.WIDTH_INCHES, 4.4), dpi=canvas.DPI, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    for panel in (left, right):
        canvas.dress(panel)
    here = results.select(runs, lr=lr)
    lines.draw_panel(
        left, here, lambda run: lines.positive(run.series("max_logit")), canvas.colors(runs)
    )
    lines.draw_taus(left, here)
    left.set_title(
        f"Max attention logit at learning rate {lr:g}", fontsize=10.5, loc="left", color=canvas.INK
    )
    left.set_xlabel("step", fontsize=9.5)
    draw_final_loss(right, runs)
    right.set_ylabel("")
    right.set_title("Final held-out bits per byte", fontsize=10.5, loc="left", color=canvas.INK)
    canvas.legend(figure, runs, [lines.tau_handle(here)], colors=canvas.colors(runs))
    return figure


def spectral_norm(runs: Runs) -> "Figure":
    """Spectral norm of the query-key product, largest of all layers and heads, against step."""
    figure, axes = canvas.panels(len(results.lrs(runs)))
    lines.draw_rates(
        axes[0], runs, lambda run: lines.positive(lines.largest(run.series("qk_spectral_norm")))
    )
    lines.log_axis(axes[0])
    lines.finish(figure, axes, runs, ["largest spectral norm of Wq Wk^T"])
    return figure


def orthogonality_error(runs: Runs) -> "Figure":
    """Mean |singular value - 1| of the orthogonalised momentum against step."""
    measured = recording(runs, "orthogonality_error")
    figure, axes = canvas.panels(len(results.lrs(measured)), panel_height=2.6)
    lines.draw_rates(
        axes[0], measured, colored_as=runs, pick=lambda run: run.series("orthogonality_error")
    )
    for panel in axes[0]:
        panel.set_ylim(bottom=0)
    lines.finish(figure, axes, measured, ["mean |sigma - 1|"], colored_as=runs)
    return figure


def rms(runs: Runs) -> "Figure":
    """Root mean square of the gradient and of the update against step."""
    window = smoothing_steps(runs)
    figure, axes = canvas.panels(len(results.lrs(runs)), rows_per_panel=2, panel_height=2.4)
    for row, key in zip(axes, ("grad_rms", "update_rms"), strict=True):
        lines.draw_rates(
            row, runs, lambda run, key=key: canvas.smooth(lines.positive(run.series(key)), window)
        )
        lines.log_axis(row)
    lines.finish(figure, axes, runs, ["gradient RMS", "update RMS"])
    return figure


def max_vio(runs: Runs) -> "Figure":
    """MaxVio (arXiv:2408.15664): the busiest expert's load over the mean load, less one."""
    window = smoothing_steps(runs)
    measured = recording(runs, "max_vio")
    figure, axes = canvas.panels(len(results.lrs(measured)), panel_height=2.6)
    lines.draw_rates(
        axes[0],
        measured,
        colored_as=runs,
        pick=lambda run: canvas.smooth(lines.largest(run.series("max_vio")), window),
    )
    for panel in axes[0]:
        panel.set_ylim(bottom=0)
    lines.finish(figure, axes, measured, ["MaxVio"], colored_as=runs)
    return figure


def draw_final_loss(panel: "Axes", runs: Runs) -> None:
    """Draws final held-out loss against learning rate into given axes."""
    finals = [run.final_heldout_bpb for run in runs if np.isfinite(run.final_heldout_bpb)]
    colors = canvas.colors(runs)
    num_arms = len(colors)
    for index, (arm, color) in enumerate(colors.items()):
        # Arms stand side by side, a few percent of a decade apart, so that none hides another.
        shift = 10 ** (0.012 * (index - (num_arms - 1) / 2))
        cells = [results.select(runs, arm=arm, lr=lr) for lr in results.lrs(runs)]
        points = [_final_point(cell) for cell in cells if cell]
        kept = [point for point in points if point is not None]
        if kept:
            lr_P, mean_P, error_P = np.array(kept).T
            panel.errorbar(
                lr_P * shift, mean_P, yerr=error_P, color=color, marker="o", markersize=5,
                linewidth=lines.line_width(runs, arm), elinewidth=1.2, capsize=2.5,
            )  # fmt: skip
    panel.set_xscale("log")
    panel.set_xticks(results.lrs(runs), [f"{lr:g}" for lr in results.lrs(runs)])
    panel.minorticks_off()
    panel.margins(x=0.08)
    panel.set_xlabel("peak learning rate", fontsize=9.5)
    panel.set_ylabel("final held-out bits per byte", fontsize=9.5)
    _mark_diverged_cells(panel, runs, colors, has_scale=bool(finals))


def _mark_diverged_cells(panel: "Axes", runs: Runs, colors, *, has_scale: bool) -> None:
    dead = [run for run in runs if run.diverged]
    if not dead:
        return
    if has_scale:
        low, high = panel.get_ylim()
        panel.set_ylim(low, high + 0.16 * (high - low))
    transform = panel.get_xaxis_transform()
    lanes = {lr: results.arms(results.select(dead, lr=lr)) for lr in results.lrs(dead)}
    for lr, arms in lanes.items():
        for lane, arm in enumerate(arms):
            shift = 10 ** (0.03 * (lane - (len(arms) - 1) / 2))
            panel.plot(
                lr * shift, 0.965, marker="x", markersize=8, markeredgewidth=2.2,
                color=colors[arm], transform=transform, clip_on=False, linestyle="",
            )  # fmt: skip
        panel.text(
            lr, 0.925, "diverged", transform=transform, ha="center", va="top", fontsize=8.5,
            color=canvas.INK,
        )  # fmt: skip


def _final_point(cell: Runs) -> tuple[float, float, float] | None:
    """Rate, mean and error bar of the seeds that finished; None when none did."""
    finals = [run.final_heldout_bpb for run in cell if not run.diverged]
    finals = [value for value in finals if np.isfinite(value)]
    if not finals:
        return None
    error = np.std(finals, ddof=1) if len(finals) > 1 else cell[0].final_heldout_bpb_stderr
    return cell[0].lr, float(np.mean(finals)), float(np.nan_to_num(error))


def recording(runs: Runs, key: str) -> list[RunResult]:
    """The runs that recorded a finite value of a metric at least once."""
    return [run for run in runs if np.isfinite(run.series(key).values_N).any()]


def smoothing_steps(runs: Runs) -> int:
    """How many steps a smoothed curve averages: a fiftieth of the longest run."""
    return max(1, round(max(len(run.series("loss").steps_N) for run in runs) / 50))
