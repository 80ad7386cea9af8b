"""The report of jobs run in turn: what every evaluator measured at the end of every stage.

A run's arm is its stage, "mid"; for a stage that compares arms it is both, "mid: 20 % replay".
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanana_jax.report import canvas, claims, gallery, page, progress, results, tables
from kanana_jax.report.canvas import Look, Sketch
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run
from kanana_jax.report.tables import Cell, Column

MEASURED = "heldout_"  # prefix of all that evaluators measure
_PANELS_PER_ROW = 4


def named(run: Run, stage: str) -> Run:
    """`run` with its stage in the name of its arm."""
    place = results.place_words(run.place)
    words = [word for word in (run.axes.get(results.ARM, ""), place) if word]
    is_alone = not words or (len(words) == 1 and words[0] == run.config.get("name"))
    arm = stage if is_alone else f"{stage}: {', '.join(words)}"
    return dataclasses.replace(run, axes={results.ARM: arm, results.SEED: run.seed})


def write(
    runs: Sequence[Run],
    about: Mapping[str, Any],
    path: str | os.PathLike,
    *,
    headline: str = "",
    claims_found: Sequence[Claim] = (),
    pictures: Sequence[canvas.Picture] = (),
    sections: Sequence[tuple[str, str]] = (),
    keys: Sequence[str] = (),
) -> str:
    """Writes report.html to `path` and PNG files beside it; returns its words for a terminal.

    `about` is the record of how the runs were made, see `page`. `headline` and `claims_found` are
    those of an experiment that judges its stages; its `pictures` come first, and its `sections`
    (title, text) follow the one on stages. `keys` are the metrics of table and figure, by default
    all in which stages differ.
    """
    cells = tables.summarize(runs)
    columns = [_column(key) for key in keys] if keys else measured_columns(cells)
    table = tables.table(cells, columns)
    colors = canvas.look(runs).colors
    found = [*claims_found, claims.divergence(cells)]
    first_words = headline or f"{len(cells)} stages, each in a folder of its own with its report."
    page.write(
        Path(path),
        about=about,
        headline=first_words,
        claims=found,
        table=tables.for_page(table, colors),
        note=tables.error_words(cells),
        figures=gallery.figures(runs, [*pictures, Gains(keys=tuple(keys))]),
        sections=[("Stages", _sections(cells, Path(path).parent)), *sections],
        facts=_facts(cells),
    )
    return f"{tables.text(table)}\n{claims.text(first_words, found)}"


def judged(
    judge: Callable[[Sequence[Run]], list[Claim]], keys: Sequence[str]
) -> Callable[[Sequence[Run], Mapping[str, Any], str | os.PathLike], str]:
    """A function that writes a report of `judge`'s claims, under a headline that counts them."""

    def write_judged(runs: Sequence[Run], about: Mapping[str, Any], path: str | os.PathLike) -> str:
        found = judge(runs)
        return write(
            runs, about, path, headline=claims.counted(found), claims_found=found, keys=keys
        )

    return write_judged


def measured(runs: Sequence[Run]) -> list[str]:
    """The names of all that evaluators measured."""
    keys = dict.fromkeys(key for run in runs for key in run.values)
    return [
        key
        for key in keys
        if key.startswith(MEASURED) and not key.endswith("_stderr")
        if any(math.isfinite(run.value(key)) for run in runs)
    ]


def measured_columns(cells: Sequence[Cell]) -> list[Column]:
    """A column for each metric in which stages differ."""
    keys = measured([run for cell in cells for run in cell.runs])
    return [_column(key) for key in keys if _differs(key, cells) or len(cells) == 1]


def _column(key: str) -> Column:
    if key == "heldout_bpb":
        return tables.HELDOUT
    return tables.number_column(key)._replace(heading=_words(key))


def _words(key: str) -> str:
    return key.removeprefix(MEASURED).replace("_", " ")


def _sections(cells: Sequence[Cell], folder: Path) -> str:
    """What each stage was, in a line."""
    lines = []
    for cell in cells:
        run = cell.runs[0]
        seconds = sum(one.seconds for one in cell.runs if math.isfinite(one.seconds))
        start = Path(run.config.get("train", {}).get("init_from", ""))
        within = start.relative_to(folder) if start.is_relative_to(folder) else start
        origin = f", from {within.parts[0]}" if within.parts else ""
        lines.append(
            f"{cell.arm}: {claims.seeds(cell.num_seeds)} of {run.steps} steps{origin}; "
            f"{progress.duration(seconds)}."
        )
    return "\n".join(lines)


def _facts(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    seconds = [run.seconds for cell in cells for run in cell.runs if math.isfinite(run.seconds)]
    return [("Time", f"{progress.duration(sum(seconds))} for all stages")]


@dataclass(frozen=True, kw_only=True)
class Gains:
    """A panel for each metric in which stages or arms differ: where each lies against the first.

    With `keys`, panels for these only.
    """

    keys: tuple[str, ...] = ()
    name: str = "stages"
    title: str = "What each stage gained and forgot"
    reading: str = (
        "The dashed line is the first row. Bits per byte are better to the left, accuracies to "
        "the right; bars are the standard deviation over seeds, or the sampling error of one."
    )

    def draw(self, runs: Sequence[Run], look: Look) -> Sketch | None:
        from matplotlib.figure import Figure

        cells = tables.summarize(runs)
        keys = [key for key in self.keys or measured(runs) if _differs(key, cells)]
        if not keys or len(cells) < 2:
            return None
        num_rows = -(-len(keys) // _PANELS_PER_ROW)
        num_columns = min(len(keys), _PANELS_PER_ROW)
        figure = Figure(
            figsize=(canvas.WIDTH_INCHES, num_rows * (1.0 + 0.36 * len(cells))),
            dpi=canvas.DPI,
            layout="constrained",
        )
        grid = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True)
        for panel, key in zip(grid.flat, keys, strict=False):
            _draw_panel(panel, key, cells, look)
        for panel in list(grid.flat)[len(keys) :]:
            panel.set_visible(False)
        return Sketch(self.title, self.reading, figure)


def _differs(key: str, cells: Sequence[Cell]) -> bool:
    """Whether stages differ in it at all."""
    values = [value for value, _ in (cell.mean(key) for cell in cells) if math.isfinite(value)]
    return len(set(values)) > 1


def _draw_panel(panel, key: str, cells: Sequence[Cell], look: Look) -> None:
    canvas.dress(panel)
    rows = np.arange(len(cells))
    for row, cell in zip(rows, cells, strict=True):
        value, error = cell.mean(key)
        if not math.isfinite(value):
            continue
        color = look.colors[cell.arm]
        bar = error if math.isfinite(error) else None
        panel.errorbar(value, row, xerr=bar, fmt="o", color=color, markersize=6, capsize=3)
        if row == 0:
            panel.axvline(value, color=canvas.INK, linewidth=0.8, linestyle=(0, (4, 3)))
    panel.set_yticks(rows, [cell.arm for cell in cells])
    panel.set_ylim(len(cells) - 0.5, -0.5)
    panel.locator_params(axis="x", nbins=5)
    panel.ticklabel_format(axis="x", scilimits=(-3, 4))
    canvas.title(panel, _words(key))
