"""The pictures of a report, drawn for its runs."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from kanana_jax.report import canvas, results
from kanana_jax.report.canvas import Picture
from kanana_jax.report.page import Figure
from kanana_jax.report.results import Run


def figures(
    runs: Sequence[Run],
    pictures: Sequence[Picture],
    *,
    is_emphasized: Callable[[Run], bool] = canvas.nobody,
    names: Mapping[str, str] | None = None,
) -> Iterator[Figure]:
    """Draws every picture that the runs have data for.

    `is_emphasized` says which arms are blue. `names` names the axes that are not called by the last
    part of their path.
    """
    labels = canvas.labels(results.arms(runs))
    runs = [
        run
        if labels[run.arm] == run.arm
        else dataclasses.replace(run, axes={**run.axes, results.ARM: labels[run.arm]})
        for run in runs
    ]
    look = canvas.look(runs, is_emphasized, names)
    for picture in pictures:
        with canvas.with_fonts():
            sketch = picture.draw(runs, look)
            png = b"" if sketch is None else canvas.png(sketch.figure)
        if sketch is not None:
            yield Figure(picture.name, sketch.title, sketch.reading + _numbered(labels), png)


def _numbered(labels: Mapping[str, str]) -> str:
    """Which arms a figure calls by number, for want of a font with their letters."""
    named = [f"{label} is {arm}" for arm, label in labels.items() if label != canvas.plain(arm)]
    return f" In it {', '.join(named)}." if named else ""
