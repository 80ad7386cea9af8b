"""The report of a comparison of arms over learning rates, with its verdict about QK-Clip."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanana_jax.report import canvas, gallery, page, progress, results, statistics, summary, verdict
from kanana_jax.report.results import RunResult
from kanana_jax.report.summary import Cell
from kanana_jax.report.verdict import Verdict


@dataclass(frozen=True)
class StressReport:
    """What was written, and what to print."""

    path: Path
    table: str
    verdict: Verdict

    def text(self) -> str:
        """The table and the verdict in words, for a terminal."""
        return f"{self.table}\n{self.verdict.text()}"


def write_stress_report(
    runs: Sequence[RunResult], experiment: Mapping[str, Any], path: str | os.PathLike
) -> StressReport:
    """Writes a self-contained report.html to `path` and its figures as PNG files beside it.

    `experiment` is the record saved with the sweep, see `page.write`. The runs may be any part of
    the sweep.
    """
    if not runs:
        raise ValueError("a report needs at least one finished run, got none")
    cells = summary.summarize(runs)
    judged = verdict.judge(runs)
    page.write(
        Path(path),
        experiment=experiment,
        headline=judged.headline,
        claims=judged.claims,
        table=table(cells, runs),
        note=note(cells, runs),
        figures=gallery.figures(runs, lr=telling_rate(cells)),
        facts=run_facts(runs),
    )
    return StressReport(Path(path), summary.text_table(cells), judged)


def telling_rate(cells: Sequence[Cell]) -> float:
    """The rate at which an unclipped Muon arm (or, without one, any arm) peaks highest."""
    measured = [cell for cell in cells if not math.isnan(cell.peak)]
    references = [cell for cell in measured if cell.is_muon and not cell.clipped]
    # Several arms may have reached infinity; the largest rate among them tells most.
    top = max(references or measured or cells, key=lambda cell: (cell.peak, cell.lr))
    return top.lr


def table(cells: Sequence[Cell], runs: Sequence[RunResult]) -> dict[str, Any]:
    """The summary table as the page wants it."""
    colors = canvas.colors(runs)
    best = {
        lr: min(finals, default=None)
        for lr in results.lrs(runs)
        for finals in [[c.heldout_bpb for c in cells if c.lr == lr and not c.diverged]]
    }
    rows = []
    for cell, words in zip(cells, summary.rows(cells), strict=True):
        is_first = not rows or rows[-1]["cells"][0] != words[0]
        rows.append(
            {
                "cells": words,
                "first": is_first,
                "best": len(cells) > 1 and cell.heldout_bpb == best[cell.lr],
                "bad": bool(cell.diverged),
                "color": colors[cell.arm],
            }
        )
    return {"columns": summary.COLUMNS, "words": summary.WORD_COLUMNS, "rows": rows}


def note(cells: Sequence[Cell], runs: Sequence[RunResult]) -> str:
    """What the numbers of the table are."""
    if max(cell.num_seeds for cell in cells) > 1:
        error = "the standard deviation over seeds that finished; max logits are the worst seed's"
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
    best = " The best held-out loss at each rate is bold." if len(cells) > 1 else ""
    taus = ", ".join(f"{tau:g}" for tau in results.taus(runs))
    return f"tau = {taus}. +- is {error}. Clip events count heads clipped, summed over steps.{best}"


def run_facts(runs: Sequence[RunResult]) -> list[tuple[str, str]]:
    """How many runs, and how long they took."""
    seconds = [run.seconds for run in runs if math.isfinite(run.seconds)]
    facts = [("Runs", f"{len(runs)} of {max(run.num_steps for run in runs)} steps")]
    if seconds:
        facts.append(("Time", f"{progress.duration(sum(seconds))} for all runs"))
    return facts
