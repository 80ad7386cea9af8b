"""The report of a comparison without a judge of its own: arms over the values of any axes."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kanana_jax.report import canvas, claims, gallery, page, pairs, results, tables
from kanana_jax.report.canvas import Picture
from kanana_jax.report.claims import Claim
from kanana_jax.report.finals import Finals
from kanana_jax.report.results import Run
from kanana_jax.report.tables import Cell


def write(
    runs: Sequence[Run],
    about: Mapping[str, Any],
    path: str | os.PathLike,
    *,
    curves: Sequence[Picture],
    verdict: tuple[str, Sequence[Claim]] | None = None,
    sections: Sequence[tuple[str, str]] = (),
) -> str:
    """Writes report.html to `path` and PNG files beside it; returns its words for a terminal.

    `about` is the record of how the runs were made, see `page`. The runs may be any part of the
    comparison. `verdict` is the headline and the claims of an experiment that judges them itself;
    without it each arm is set against the first. `sections` are (title, text).
    """
    if not runs:
        raise ValueError("a report needs at least one finished run, got none")
    cells = tables.summarize(runs)
    table = tables.table(cells, tables.loss_columns(runs))
    numbers = tables.table(cells, tables.value_columns(runs))
    colors = canvas.look(runs).colors
    first_words, found = verdict or (headline(cells), judge(runs, cells))
    page.write(
        Path(path),
        about=about,
        headline=first_words,
        claims=found,
        table=tables.for_page(table, colors),
        note=note(cells),
        numbers=tables.for_page(numbers, colors),
        sections=sections,
        figures=gallery.figures(runs, [Finals(), *curves]),
        facts=page.run_facts(runs),
    )
    return f"{tables.text(table)}\n{claims.text(first_words, found)}"


def judge(runs: Sequence[Run], cells: Sequence[Cell]) -> list[Claim]:
    """Each arm against the first, each around its own best values, and what diverged."""
    axes = results.place_axes(runs)
    swept = [axis for axis in axes if len(results.values_of(runs, axis)) > 1]
    noun = claims.listed(list(results.short_names(swept).values())) if swept else ""
    found = claims.against_first(runs, noun)
    if swept:
        best = pairs.best(runs)
        found += [
            claims.best_places(best, noun),
            *claims.best_against_first(runs, best, noun),
        ]
    return [*found, claims.divergence(cells)]


def headline(cells: Sequence[Cell]) -> str:
    """The best cell without a diverged seed, in a sentence."""
    living = [one for one in cells if not one.diverged and math.isfinite(one.heldout_bpb)]
    if not living:
        return "No run ended with a held-out loss."
    best = min(living, key=lambda cell: cell.heldout_bpb)
    where = f": {best.words}" if best.words else ""
    sentence = f"The lowest held-out loss is {tables.HELDOUT.words(best)} bits per byte{where}."
    return f"{sentence} {claims.few_seeds(cells)}".strip()


def note(cells: Sequence[Cell]) -> str:
    """What the numbers of the table are."""
    best = " The best held-out loss at each place is bold." if len(cells) > 1 else ""
    return tables.error_words(cells) + best
