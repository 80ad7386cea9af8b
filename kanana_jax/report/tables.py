"""The table of a report: the seeds of each arm and place, boiled down to one row."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kanana_jax.report import results, statistics
from kanana_jax.report.results import Place, Run


@dataclass(frozen=True)
class Cell:
    """The seeds of one arm at one place."""

    arm: str
    place: Place
    runs: tuple[Run, ...]

    @property
    def num_seeds(self) -> int:
        return len(self.runs)

    @property
    def diverged(self) -> bool:
        """Whether any of the seeds did."""
        return any(run.diverged for run in self.runs)

    @property
    def heldout_bpb(self) -> float:
        return self.mean("heldout_bpb")[0]

    @property
    def heldout_error(self) -> float:
        return self.mean("heldout_bpb")[1]

    def mean(self, key: str) -> tuple[float, float]:
        """A value's mean over the seeds that finished, and their standard deviation.

        With one seed, the run's own error, `<key>_stderr`, replaces the deviation. NaN where there
        is none.
        """
        living = [run for run in self.runs if not run.diverged]
        values = np.array([run.value(key) for run in living])
        values = values[np.isfinite(values)]
        if len(values) > 1:
            return float(values.mean()), float(np.std(values, ddof=1))
        error = living[0].value(f"{key}_stderr") if living else math.nan
        return float(values[0]) if len(values) else math.nan, error

    @property
    def status(self) -> str:
        """`ok`, or how many of the seeds diverged and when."""
        dead = [run for run in self.runs if run.diverged]
        if not dead:
            return "ok"
        steps = sorted({run.diverged_step for run in dead if run.diverged_step is not None})
        when = f" at step {', '.join(map(str, steps))}" if steps else ""
        some = f"{len(dead)} of {self.num_seeds} " if self.num_seeds > 1 else ""
        return f"{some}diverged{when}"

    @property
    def words(self) -> str:
        """ "MuonClip at lr 0.01"."""
        return " at ".join(word for word in (self.arm, results.place_words(self.place)) if word)


def summarize(runs: Sequence[Run]) -> list[Cell]:
    """A cell for every arm and place that ran, by place, then in arm order."""
    order = [(place, arm) for place in results.places(runs) for arm in results.arms(runs)]
    seeds = [results.select(runs, arm=arm, place=place) for place, arm in order]
    return [Cell(one[0].arm, one[0].place, tuple(one)) for one in seeds if one]


class Column(NamedTuple):
    """A heading, and what stands under it for a cell."""

    heading: str
    words: Callable[[Cell], str]
    is_text: bool = False  # read from the left; numbers line up on the right


class Table(NamedTuple):
    """Cells in words."""

    cells: Sequence[Cell]
    columns: Sequence[Column]

    @property
    def rows(self) -> list[tuple[str, ...]]:
        return [tuple(column.words(cell) for column in self.columns) for cell in self.cells]


HELDOUT = Column(
    "held-out bits per byte", lambda cell: with_error(cell.heldout_bpb, cell.heldout_error)
)
ARM = Column("arm", lambda cell: cell.arm, is_text=True)
STATUS = Column("status", lambda cell: cell.status, is_text=True)


def table(
    cells: Sequence[Cell], columns: Sequence[Column], names: Mapping[str, str] | None = None
) -> Table:
    """A column for every axis, one for the arm, those given, and the status.

    `names` are those of axes that are not called by the last part of their path.
    """
    runs = [run for cell in cells for run in cell.runs]
    axes = results.place_axes(runs)
    called = results.short_names(axes) | dict(names or {})
    of_axes = [_axis_column(name, called[name], runs) for name in axes]
    of_arms = [ARM] if any(results.ARM in run.axes for run in runs) else []
    return Table(cells, [*of_axes, *of_arms, *columns, STATUS])


def _axis_column(axis: str, heading: str, runs: Sequence[Run]) -> Column:
    def shown(cell: Cell) -> str:
        values = dict(cell.place)
        return results.words(values[axis]) if axis in values else "-"

    return Column(heading, shown, not results.are_numbers(results.values_of(runs, axis)))


def loss_columns(runs: Sequence[Run]) -> list[Column]:
    """Held-out loss or, where no run has one, every number of the results."""
    has_loss = any(math.isfinite(run.value("heldout_bpb")) for run in runs)
    return [HELDOUT] if has_loss else value_columns(runs)


def value_columns(runs: Sequence[Run]) -> list[Column]:
    """Every number of the runs' results besides the held-out loss."""
    keys = dict.fromkeys(key for run in runs for key in run.values)
    return [
        number_column(key)
        for key in keys
        if key != "heldout_bpb" and not key.endswith("_stderr")
        if any(math.isfinite(run.value(key)) for run in runs)
    ]


def number_column(key: str) -> Column:
    """A number of the runs' results, with the standard deviation over seeds."""
    return Column(key.replace("_", " "), _number_of(key))


def _number_of(key: str) -> Callable[[Cell], str]:
    def shown(cell: Cell) -> str:
        value, error = cell.mean(key)
        if math.isnan(value):
            return "-"
        return f"{value:.4g}" if math.isnan(error) else f"{value:.4g} +- {error:.2g}"

    return shown


def text(table: Table) -> str:
    """The table in plain aligned text, with a rule between places."""
    headings = tuple(column.heading for column in table.columns)
    rows = table.rows
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    rule = "  ".join("-" * width for width in widths)
    lines, previous = [_aligned(table, headings, widths)], None
    for cell, row in zip(table.cells, rows, strict=True):
        if cell.place != previous:
            lines.append(rule)
        lines.append(_aligned(table, row, widths))
        previous = cell.place
    return "\n".join(lines) + "\n"


def _aligned(table: Table, row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        text.ljust(width) if column.is_text else text.rjust(width)
        for column, text, width in zip(table.columns, row, widths, strict=True)
    ]
    return "  ".join(cells).rstrip()


def for_page(table: Table, colors: Mapping[str, str]) -> dict[str, Any]:
    """The table as the page's template takes it.

    The best held-out loss of each place stands out; a dot before the arm has its colour.
    """
    best = {}
    for cell in table.cells:
        if not cell.diverged and math.isfinite(cell.heldout_bpb):
            least = best.get(cell.place, math.inf)
            best[cell.place] = min(least, cell.heldout_bpb)
    rows, previous = [], None
    for cell, words in zip(table.cells, table.rows, strict=True):
        is_best = len(table.cells) > 1 and cell.heldout_bpb == best.get(cell.place)
        marks = [_mark(column, cell, is_best) for column in table.columns]
        dots = [colors[cell.arm] if column is ARM else "" for column in table.columns]
        texts = list(zip(words, marks, dots, strict=True))
        rows.append({"first": cell.place != previous, "cells": texts})
        previous = cell.place
    headings = [(column.heading, "word" if column.is_text else "") for column in table.columns]
    return {"headings": headings, "rows": rows}


def _mark(column: Column, cell: Cell, is_best: bool) -> str:
    """The classes of a table cell in the page."""
    is_marked = {
        "word": column.is_text,
        "best": column is HELDOUT and is_best,
        "bad": column is STATUS and cell.diverged,
    }
    return " ".join(name for name, holds in is_marked.items() if holds)


def error_words(cells: Sequence[Cell]) -> str:
    """What +- means in the table, and in the comparisons beside it."""
    if max(cell.num_seeds for cell in cells) > 1:
        error = "the standard deviation over seeds that finished"
    else:
        error = (
            "the sampling error of the held-out text, which says nothing about the luck of the seed"
        )
    if len({cell.arm for cell in cells}) > 1:
        error += (
            ". Differences are paired by seed and held-out sequence; +- is then the band that "
            f"covers {statistics.COVERAGE:.0%}, each by itself, and what a comparison detects is "
            f"the difference that it would have told from none in {statistics.POWER:.0%} of tries"
        )
    return f"+- is {error}."


def number(value: float, decimals: int) -> str:
    """Fixed decimals; `-` when not measured, `inf` when infinite."""
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"


def with_error(value: float, error: float) -> str:
    """A value and its error behind +-; `-` when not measured."""
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if math.isnan(error) else f"{value:.4f} +- {error:.4f}"
