"""The report of one run: its table and its curves, without a comparison."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kanana_jax.report import canvas, gallery, page, tables
from kanana_jax.report.canvas import Picture
from kanana_jax.report.results import Run


def write_run_report(
    run: Run,
    about: Mapping[str, Any],
    path: str | os.PathLike,
    *,
    curves: Sequence[Picture],
    headline: str | None = None,
    columns: Sequence[tables.Column] | None = None,
) -> str:
    """Writes report.html to `path` and PNG files beside it; returns the table for a terminal.

    `about` is the record of how the run was made, see `page`. Without `columns` the table has
    the held-out loss; the page shows all other numbers of the result below the figures.
    """
    cells = tables.summarize([run])
    table = tables.table(cells, tables.loss_columns([run]) if columns is None else columns)
    numbers = tables.table(cells, tables.value_columns([run]))
    look = canvas.look([run], _always)
    page.write(
        Path(path),
        about=about,
        headline=ending(run) if headline is None else headline,
        table=tables.for_page(table, look.colors),
        note=tables.error_words(cells),
        numbers=tables.for_page(numbers, look.colors),
        figures=gallery.figures([run], curves, is_emphasized=_always),
        facts=page.run_facts([run]),
    )
    return tables.text(table)


def ending(run: Run) -> str:
    """How the run ended, in a sentence."""
    if run.diverged:
        return f"The run diverged at step {run.diverged_step}."
    (cell,) = tables.summarize([run])
    if tables.HELDOUT.words(cell) == "-":
        return f"The run did its {run.steps} steps."
    return f"After {run.steps} steps: {tables.HELDOUT.words(cell)} held-out bits per byte."


def _always(run: Run) -> bool:
    return True
