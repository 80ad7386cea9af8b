"""The figures of a report, each with one sentence on how to read it.

A figure whose metric no run recorded is left out.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from kanana_jax.report import canvas, heatmaps, plots, progress, results
from kanana_jax.report.page import Figure
from kanana_jax.report.results import RunResult


def figures(runs: Sequence[RunResult], *, lr: float) -> Iterator[Figure]:
    """Draws every figure the runs have data for; `lr` is the rate of single-rate figures."""
    labels = canvas.labels(results.arms(runs))
    runs = [
        run if labels[run.arm] == run.arm else dataclasses.replace(run, arm=labels[run.arm])
        for run in runs
    ]
    at_lr = results.select(runs, lr=lr)
    clipped = [run for run in runs if run.clipped]
    window = plots.smoothing_steps(runs)
    num_rates = len(results.lrs(runs))
    candidates: list[tuple[str, str, str, bool, Callable]] = [
        (
            "overview",
            "In short",
            "Left: the largest attention logit, on a log scale; unbounded growth climbs, a working "
            "clip stays near the dashed tau. Right: lower is better, and an arm that stays low "
            "further to the right tolerates larger rates.",
            num_rates > 1 and _any(at_lr, "max_logit"),
            lambda: plots.overview(runs, lr),
        ),
        (
            "max_logit",
            "Max attention logit",
            "The largest logit of any layer and head at each step, on a log scale; the dashed line "
            "is tau, above which QK-Clip acts.",
            _any(runs, "max_logit"),
            lambda: plots.max_logit(runs),
        ),
        (
            "max_logit_heads",
            f"Max logit of every layer and head, learning rate {progress.rate(lr)}",
            "White is tau, red above it, blue below; look for whether a few heads run away or all "
            "of them, and whether clipped arms keep every head near white or below.",
            _any(at_lr, "max_logits"),
            lambda: heatmaps.max_logits(at_lr, colors=canvas.colors(runs)),
        ),
        (
            "clipping",
            "Clip activity",
            "Above, how many heads were clipped at each step; below, the strongest factor gamma "
            "applied (1 means none): far below 1 means that logits overshoot a lot in a "
            "single step.",
            _any(clipped, "clip_count") and _any(clipped, "min_gamma"),
            lambda: plots.clipping(runs),
        ),
        (
            "loss",
            "Training loss",
            f"Mean of the last {window} steps; the axis is fitted to living runs after their first "
            "twentieth, so the initial fall and the end of diverged runs leave at the top.",
            _any(runs, "loss"),
            lambda: plots.loss(runs),
        ),
        (
            "heldout_bpb",
            "Held-out bits per byte",
            "Loss on text kept out of training, in bits per byte of that text; lower is better.",
            _any(runs, "heldout_bpb"),
            lambda: plots.heldout_bpb(runs),
        ),
        (
            "final_loss",
            "Final held-out bits per byte against learning rate",
            "The flat bottom of each curve is the range of rates the arm tolerates; error bars "
            "are the spread over seeds or, with one seed, the sampling error of the held-out text.",
            num_rates > 1,
            lambda: plots.final_loss(runs),
        ),
        (
            "spectral_norm",
            "Spectral norm of the query-key products",
            "The largest over layers and heads; it bounds how fast logits can grow with the "
            "hidden states, and its growth precedes theirs.",
            _any(runs, "qk_spectral_norm"),
            lambda: plots.spectral_norm(runs),
        ),
        (
            "orthogonality_error",
            "Orthogonality error of the update",
            "Mean distance of the orthogonalised momentum's singular values from 1; 0 is an exact "
            "polar factor.",
            _any(runs, "orthogonality_error"),
            lambda: plots.orthogonality_error(runs),
        ),
        (
            "rms",
            "Size of gradients and updates",
            "Root mean square over all parameters, on log scales "
            f"(mean of the last {window} steps); at one rate the arms' updates should be of one "
            "size, or the rates are not comparable.",
            _any(runs, "grad_rms") and _any(runs, "update_rms"),
            lambda: plots.rms(runs),
        ),
        (
            "max_vio",
            "Expert balance",
            "MaxVio is the busiest expert's load over the mean load, less one, in the worst layer "
            f"(mean of the last {window} steps); 0 is perfect balance.",
            _any(runs, "max_vio"),
            lambda: plots.max_vio(runs),
        ),
    ]
    for name, title, reading, has_data, draw in candidates:
        if has_data:
            with canvas.with_fonts():
                png = canvas.png(draw())
            yield Figure(name, title, reading + _numbered(labels), png)


def _numbered(labels: Mapping[str, str]) -> str:
    """Which arms a figure calls by number, for want of a font with their letters."""
    named = [f"{label} is {arm}" for arm, label in labels.items() if label != canvas.plain(arm)]
    return f" In it {', '.join(named)}." if named else ""


def _any(runs: Sequence[RunResult], key: str) -> bool:
    return bool(plots.recording(runs, key))
