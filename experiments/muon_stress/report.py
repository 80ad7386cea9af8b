"""The report of the comparison, with its verdict about QK-Clip."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.muon_stress import arms, figures, prose, verdict
from kanana_jax.jobs import curves
from kanana_jax.report import canvas, comparison, gallery, page, results, tables
from kanana_jax.report.results import Run
from kanana_jax.report.tables import Cell


def write(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
    """Writes report.html to `path` and its figures as PNG files beside it; returns its words.

    `about` is the record of how the runs were made, see `report.page`. The runs may be any part of
    the sweep. The verdict is about arms over learning rates: a comparison with other axes gets the
    general report.
    """
    if set(results.place_axes(runs)) - {arms.RATE}:
        return comparison.write(runs, about, path, curves=curves.TRAINING)
    judged = verdict.judge(runs)
    cells = tables.summarize(runs)
    table = tables.table(cells, curves.COLUMNS, figures.NAMES)
    look = canvas.look(runs, arms.is_clipped)
    page.write(
        Path(path),
        about=about,
        headline=judged.headline,
        claims=judged.claims,
        table=tables.for_page(table, look.colors),
        note=note(cells, runs),
        sections=[("How to read QK-Clip", prose.QK_CLIP)],
        figures=gallery.figures(
            runs,
            list(figures.pictures()),
            is_emphasized=arms.is_clipped,
            names=figures.NAMES,
        ),
        facts=page.run_facts(runs),
    )
    return f"{tables.text(table)}\n{judged.text()}"


def note(cells: Sequence[Cell], runs: Sequence[Run]) -> str:
    """What the numbers of the table are."""
    taus = ", ".join(f"{tau:g}" for tau in sorted({arms.tau(run) for run in runs}))
    worst = "; max logits are the worst seed's" if max(one.num_seeds for one in cells) > 1 else ""
    best = " The best held-out loss at each rate is bold." if len(cells) > 1 else ""
    return (
        f"tau = {taus}{worst}. {tables.error_words(cells)} Clip events count heads clipped, summed "
        f"over steps.{best}"
    )
