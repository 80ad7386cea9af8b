"""The HTML page that reports fill in: one file, nothing loaded from elsewhere.

Every report is given a record of how its runs were made:

    config      all settings as in JSON; for a comparison, those that its runs share
    command, commit, started, device, python    of the process, empty where not known
    versions    of the packages that matter, by name
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanana_jax.report import canvas, progress
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run
from kanana_jax.report.template import TEMPLATE

PROVENANCE = ("command", "commit", "started", "device", "python", "versions")


@dataclass(frozen=True)
class Figure:
    """A picture of the report: its file name, what it shows, and how to read it."""

    name: str
    title: str
    reading: str
    png: bytes

    @property
    def width_px(self) -> int:
        """Width on the page: the header's pixels, shown at 96 to the inch."""
        return round(int.from_bytes(self.png[16:20], "big") * 96 / canvas.DPI)

    @property
    def data_uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def write(
    path: Path,
    *,
    about: Mapping[str, Any],
    figures: Iterable[Figure],
    facts: Sequence[tuple[str, str]],
    headline: str = "",
    claims: Sequence[Claim] = (),
    table: Mapping[str, Any] | None = None,
    note: str = "",
    numbers: Mapping[str, Any] | None = None,
    sections: Sequence[tuple[str, str]] = (),
) -> None:
    """Writes the page, and every figure as `<figure.name>.png` next to it.

    `about` is the record of how the runs were made. `note` stands below the table, `sections`
    (title, text) before the figures, and a second table, `numbers`, after them.
    """
    import jinja2

    shown = provenance(about)
    config = about["config"]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    figures = list(figures)
    html = environment.from_string(TEMPLATE).render(
        name=config.get("name", "experiment"),
        question=config.get("question", ""),
        config=json.dumps(config, indent=2, default=str),
        figures=figures,
        facts=[*shown, *facts],
        headline=headline,
        claims=claims,
        table=table,
        note=note,
        numbers=numbers,
        sections=sections,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        (path.parent / f"{figure.name}.png").write_bytes(figure.png)
    path.write_text(html, encoding="utf-8")
    _write_summary(path, config, headline, claims, figures)


def _write_summary(
    path: Path,
    config: Mapping[str, Any],
    headline: str,
    claims: Sequence[Claim],
    figures: Sequence[Figure],
) -> None:
    """Writes what `index` shows of a report, as report.json next to report.html."""
    summary = {
        "name": config.get("name", "experiment"),
        "question": config.get("question", ""),
        "headline": headline,
        "claims": [{"question": one.question, "holds": one.holds} for one in claims],
        "picture": f"{figures[0].name}.png" if figures else "",
    }
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    path.with_suffix(".json").write_text(text, encoding="utf-8")


def provenance(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What ran and where. Raises ValueError where the record lacks a part."""
    missing = [key for key in ("config", *PROVENANCE) if key not in about]
    if missing:
        raise ValueError(
            f"the record of a run must have {', '.join(('config', *PROVENANCE))}; it lacks "
            f"{', '.join(missing)}, got {sorted(about)}"
        )
    facts = [
        (key.capitalize(), str(about[key]))
        for key in ("command", "commit", "started", "device")
        if about[key]
    ]
    versions = {"python": about["python"], **about["versions"]}
    return [*facts, ("Versions", ", ".join(f"{name} {one}" for name, one in versions.items()))]


def run_facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """How many runs, and how long they took."""
    seconds = [run.seconds for run in runs if math.isfinite(run.seconds)]
    facts = [("Runs", f"{len(runs)} of {max(run.steps for run in runs)} steps")]
    if seconds:
        facts.append(("Time", f"{progress.duration(sum(seconds))} for all runs"))
    return facts + _stage_facts(runs)


def _stage_facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The stages of each arm that has some; curves have a dotted line where one begins."""
    lines = {
        ", then ".join(f"{one['name']} ({one['tokens']:,} tokens)" for one in stages): run.arm
        for run in runs
        if (stages := run.config.get("stages"))
    }
    if len(lines) == 1:
        return [("Stages", next(iter(lines)))]
    return [(f"Stages of {arm}", line) for line, arm in lines.items()]
