"""The report of one run: the same figures and table, without a comparison."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanana_jax.report import gallery, page, stress, summary
from kanana_jax.report.results import RunResult


def write_run_report(run: RunResult, experiment: Mapping[str, Any], path: str | os.PathLike) -> str:
    """Writes report.html to `path` and PNG files beside it; returns the table for a terminal.

    `experiment` is the record saved with the run, as for `stress.write_stress_report`.
    """
    cells = summary.summarize([run])
    page.write(
        Path(path),
        experiment=experiment,
        headline=headline(run),
        table=stress.table(cells, [run]),
        note=stress.note(cells, [run]),
        figures=gallery.figures([run], lr=run.lr),
        facts=stress.run_facts([run]),
    )
    return summary.text_table(cells)


def headline(run: RunResult) -> str:
    """How the run ended, in a sentence."""
    if run.diverged:
        return f"The run diverged at step {run.diverged_step}."
    cell = summary.summarize([run])[0]
    clip = f", with {run.clip_events} clip events" if run.clipped else ""
    heldout = summary.with_error(cell.heldout_bpb, cell.heldout_error)
    return (
        f"After {run.num_steps} steps: {heldout} held-out bits per byte; the max attention logit "
        f"peaked at {summary.number(cell.peak, 2)} x tau{clip}."
    )
