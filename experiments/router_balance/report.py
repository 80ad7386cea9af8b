"""The report of the comparison: the verdict, MaxVio next to what chance leaves, and loads."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.router_balance import measures, verdict
from kanana_jax.jobs import curves
from kanana_jax.report import canvas, comparison, gallery, page, results, tables
from kanana_jax.report.canvas import Picture
from kanana_jax.report.curves import Reference
from kanana_jax.report.results import Run
from kanana_jax.report.tables import Cell, Column

MEANING = (
    "Every token goes to the experts whose scores, with a bias added, are largest. MaxVio is how "
    "far the busiest expert's load lies above the mean load of its layer; 0 is even. The sign rule "
    "moves each bias by a fixed step against its load. Quantile balancing asks for each token and "
    "expert which bias would have made it the token's choice, and takes the bias at which each "
    "expert would have got an even share of the last batch. The next batch has other tokens, so "
    "no rule keeps loads quite even: the dashed lines are what random choices would leave."
)


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    """Writes report.html to `path` and its figures as PNG files beside it; returns its words.

    A comparison with further axes gets the general report.
    """
    if results.place_axes(runs):
        return comparison.write(runs, about, path, curves=curves.TRAINING)
    judged, cells = verdict.judge(runs), tables.summarize(runs)
    table = tables.table(cells, (tables.HELDOUT, *COLUMNS))
    look = canvas.look(runs, measures.is_quantile)
    page.write(
        Path(path),
        about=about,
        headline=judged.headline,
        claims=judged.claims,
        table=tables.for_page(table, look.colors),
        note=f"MaxVio is the mean over the last third of steps. {tables.error_words(cells)}",
        sections=[("How experts are balanced", MEANING)],
        figures=gallery.figures(runs, pictures(), is_emphasized=measures.is_quantile),
        facts=page.run_facts(runs),
    )
    return f"{tables.text(table)}\n{judged.text()}"


def pictures() -> list[Picture]:
    """The pictures of every training job; balance first, with its floor."""
    largest, mean = curves.MAX_VIO.rows
    with_floor = dataclasses.replace(
        curves.MAX_VIO,
        reading=f"{curves.MAX_VIO.reading} Dashed: tokens that choose experts at random.",
        rows=(
            dataclasses.replace(largest, references=(_floor("worst"),)),
            dataclasses.replace(mean, references=(_floor("mean"),)),
        ),
    )
    shown = (curves.MAX_VIO, curves.EXPERT_LOAD)
    others = [one for one in curves.TRAINING if one not in shown]
    return [with_floor, curves.EXPERT_LOAD, *others]


def _floor(which: str) -> Reference:
    return Reference("chance", lambda run: round(getattr(measures.floor(run), which), 2))


def _column(heading: str, which: str) -> Column:
    def words(cell: Cell) -> str:
        values = np.array([getattr(measures.max_vio(run), which) for run in cell.runs])
        error = float(values.std(ddof=1)) if len(values) > 1 else math.nan
        shown = tables.number(float(values.mean()), 3)
        return shown if math.isnan(error) else f"{shown} +- {error:.3f}"

    return Column(heading, words)


COLUMNS = (_column("MaxVio", "mean"), _column("MaxVio, worst layer", "worst"))
