"""What training jobs show of their runs: the pictures and the columns of a report.

A run's tau is the threshold of QK-Clip, optimizer.tau, whether its optimizer clips or not.
"""

import math

import numpy as np

from kanana_jax.report import tables
from kanana_jax.report.canvas import Picture
from kanana_jax.report.curves import Beside, Curve, Reference, Row
from kanana_jax.report.depths import Depths
from kanana_jax.report.heatmaps import Map
from kanana_jax.report.results import Run
from kanana_jax.report.tables import Cell, Column


def tau(run: Run) -> float | None:
    """The threshold of the run's settings, None where they are not known."""
    return run.config.get("optimizer", {}).get("tau")


LOSS = Curve(
    name="loss",
    title="Training loss",
    reading=(
        "Mean of the last {window} steps; the axis is fitted to living runs after their first "
        "twentieth, so the initial fall and the end of diverged runs leave at the top."
    ),
    rows=(Row(key="loss", label="training loss (nats per token)", is_smoothed=True,
              fits_trained=True),),
)  # fmt: skip

HELDOUT_BPB = Curve(
    name="heldout_bpb",
    title="Held-out bits per byte",
    reading="Loss on text kept out of training, in bits per byte of that text; lower is better.",
    rows=(Row(key="heldout_bpb", label="held-out bits per byte", is_marked=True,
              fits_trained=True, beside=Beside("heldout_bpb_average", "averaged weights")),),
)  # fmt: skip

MAX_LOGIT_ROW = Row(
    key="max_logit", label="max attention logit", is_log=True, references=(Reference("tau", tau),)
)

MAX_LOGIT = Curve(
    name="max_logit",
    title="Max attention logit",
    reading=(
        "The largest logit of any layer and head at each step, on a log scale; the dashed line "
        "is tau, above which QK-Clip acts."
    ),
    rows=(MAX_LOGIT_ROW,),
)

MAX_LOGIT_HEADS = Map(
    name="max_logit_heads",
    title="Max logit of every layer and head",
    reading=(
        "White is tau, red above it, blue below; look for whether a few heads run away or all "
        "of them, and whether clipped arms keep every head near white or below."
    ),
    key="max_logits",
    reference=tau,
    unit="tau",
    line="layer",
    column="head",
    label="max logit",
)

CLIPPING = Curve(
    name="clipping",
    title="Clip activity",
    reading=(
        "Above, how many heads were clipped at each step; below, the strongest factor gamma "
        "applied (1 means none): far below 1 means that logits overshoot a lot in a "
        "single step."
    ),
    rows=(
        Row(key="clip_count", label="heads clipped", bottom=0.0),
        Row(key="min_gamma", label="smallest gamma", bottom=0.0, top=1.05),
    ),
    panel_height=2.1,
)

SPECTRAL_NORM = Curve(
    name="spectral_norm",
    title="Spectral norm of the query-key products",
    reading=(
        "The largest over layers and heads; it bounds how fast logits can grow with the "
        "hidden states, and its growth precedes theirs."
    ),
    rows=(Row(key="qk_spectral_norm", label="largest spectral norm of Wq Wk^T", is_log=True,
              reduction="largest"),),
)  # fmt: skip

ORTHOGONALITY_ERROR = Curve(
    name="orthogonality_error",
    title="Orthogonality error of the update",
    reading=(
        "Mean distance of the orthogonalised momentum's singular values from 1; 0 is an exact "
        "polar factor."
    ),
    rows=(Row(key="orthogonality_error", label="mean |sigma - 1|", bottom=0.0),),
    panel_height=2.6,
)

RMS = Curve(
    name="rms",
    title="Size of gradients and updates",
    reading=(
        "Root mean square over all parameters, on log scales (mean of the last {window} steps); "
        "at one rate the arms' updates should be of one size, or the rates are not comparable."
    ),
    rows=(
        Row(key="grad_rms", label="gradient RMS", is_log=True, is_smoothed=True),
        Row(key="update_rms", label="update RMS", is_log=True, is_smoothed=True),
    ),
    panel_height=2.4,
)

MAX_VIO = Curve(
    name="max_vio",
    title="Expert balance",
    reading=(
        "MaxVio (arXiv:2408.15664) is the busiest expert's load over the mean load of its layer, "
        "less one; above in the worst layer, below in the mean of all (means of the last {window} "
        "steps). 0 is perfect balance, which no batch of few tokens reaches."
    ),
    rows=(
        Row(key="max_vio_layers", label="MaxVio, worst layer", is_smoothed=True,
            reduction="largest", bottom=0.0),
        Row(key="max_vio_layers", label="MaxVio, mean of layers", is_smoothed=True,
            reduction="mean", bottom=0.0),
    ),
    panel_height=2.4,
)  # fmt: skip

EXPERT_LOAD = Map(
    name="expert_load",
    title="Load of every expert",
    reading=(
        "Tokens that chose an expert, over the mean of its layer: white is an even share, red "
        "more, blue less. Look for experts that stay red or blue from one step to the next."
    ),
    key="relative_load",
    reference=lambda run: 1.0,
    unit="mean load",
    line="MoE layer",
    column="expert",
    label="load",
    least_reach=3.0,
)

SPECIALISATION = Curve(
    name="specialisation",
    title="Experts by source of text",
    reading=(
        "What an expert tells of the source of its tokens (arXiv:2608.20061, App. F and G), mean "
        "of layers. Above, mutual information over the entropy of evenly likely sources: 0 where "
        "all sources use the experts alike, 1 where no expert has two sources. Below, the mean "
        "Jensen-Shannon divergence of two sources, at most ln 2 = 0.69."
    ),
    rows=(
        Row(key="heldout_specialisation", label="I(expert; source) / H(source)", is_marked=True,
            bottom=0.0),
        Row(key="heldout_source_divergence", label="divergence (nats)", is_marked=True, bottom=0.0),
    ),
    panel_height=2.4,
)  # fmt: skip

SPECIALISATION_DEPTH = Depths(
    name="specialisation_depth",
    title="Experts by source of text, against depth",
    reading="The share of the sources' entropy that the experts of each layer tell, at the end.",
    key="specialisation_layers",
    label="I(expert; source) / H(source)",
)

SOURCE_LOAD = Map(
    name="source_load",
    title="Experts by source, in the layer that tells most of it",
    reading=(
        "Each source's tokens over an even share of the experts, at the end: white is even, red "
        "more, blue less. Sources are in the order of data.paths, those without text left out."
    ),
    key="source_load",
    reference=lambda run: 1.0,
    unit="even share",
    line="source",
    column="expert",
    label="load",
    num_snapshots=1,
    least_reach=3.0,
)

TRAINING: tuple[Picture, ...] = (
    MAX_LOGIT,
    MAX_LOGIT_HEADS,
    CLIPPING,
    LOSS,
    HELDOUT_BPB,
    SPECTRAL_NORM,
    ORTHOGONALITY_ERROR,
    RMS,
    MAX_VIO,
    EXPERT_LOAD,
    SPECIALISATION,
    SPECIALISATION_DEPTH,
    SOURCE_LOAD,
)


def peak_max_logit(run: Run) -> float:
    """The largest max logit of the run; NaN when none was recorded."""
    values_N = run.series("max_logit").values_N
    return float(np.nanmax(values_N)) if np.any(~np.isnan(values_N)) else math.nan


def tail_max_logit(run: Run) -> float:
    """Mean of the max logit over the last tenth of the steps recorded."""
    values_N = run.series("max_logit").values_N
    num_last = math.ceil(len(values_N) / 10)
    return float(np.mean(values_N[-num_last:])) if num_last else math.nan


def clip_events(run: Run) -> int:
    """How often a head was clipped: heads summed over steps."""
    return int(np.nansum(run.series("clip_count").values_N))


def over_tau(run: Run, max_logit: float) -> float:
    """A max logit of the run in multiples of its tau; NaN where that is not known."""
    threshold = tau(run)
    return math.nan if threshold is None else max_logit / threshold


def worst_peak(cell: Cell) -> float:
    """The largest max logit over tau, of the worst seed."""
    return max(over_tau(run, peak_max_logit(run)) for run in cell.runs)


def worst_tail(cell: Cell) -> float:
    """The mean of the last tenth over tau, of the worst seed."""
    return max(over_tau(run, tail_max_logit(run)) for run in cell.runs)


def mean_clip_events(cell: Cell) -> float:
    return float(np.mean([clip_events(run) for run in cell.runs]))


def _clip_words(cell: Cell) -> str:
    recorded = any(len(run.series("clip_count").steps_N) for run in cell.runs)
    return f"{mean_clip_events(cell):.0f}" if recorded else "-"


COLUMNS: tuple[Column, ...] = (
    tables.HELDOUT,
    Column(
        "peak max logit",
        lambda cell: tables.number(max(peak_max_logit(run) for run in cell.runs), 1),
    ),
    Column("peak / tau", lambda cell: tables.number(worst_peak(cell), 2)),
    Column("last tenth / tau", lambda cell: tables.number(worst_tail(cell), 2)),
    Column("clip events", _clip_words),
)


def headline(run: Run) -> str:
    """How a run ended, in a sentence, with its largest attention logit."""
    if run.diverged:
        return f"The run diverged at step {run.diverged_step}."
    (cell,) = tables.summarize([run])
    events = f", with {clip_events(run)} clip events" if _clip_words(cell) != "-" else ""
    return (
        f"After {run.steps} steps: {tables.HELDOUT.words(cell)} held-out bits per byte; the max "
        f"attention logit peaked at {tables.number(worst_peak(cell), 2)} x tau{events}."
    )
