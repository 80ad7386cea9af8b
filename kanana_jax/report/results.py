"""Finished runs, read from their directories, and where they lie on the axes of a comparison.

    result.json      how it ended, its axes and its values
    run.json         its settings
    metrics.jsonl    its series

The axis "arm" names a contestant and "seed" a repetition. The others are settings, named by their
path. Their values together are a run's place: runs of one arm at one place differ only in seed.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from kanana_jax.report import metrics, progress, statistics
from kanana_jax.report.metrics import Series

RESULT_NAME, RUN_NAME = "result.json", "run.json"
ARM, SEED = "arm", "seed"

Place = tuple[tuple[str, Any], ...]  # (axis, value) of every axis but arm and seed


@dataclass(frozen=True, kw_only=True)
class Run:
    """What became of one training run."""

    directory: Path
    status: Literal["ok", "diverged"]
    diverged_step: int | None = None
    steps: int = 0
    seconds: float = math.nan
    axes: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)  # numbers, None or text
    config: Mapping[str, Any] = field(default_factory=dict)  # all settings, as in JSON

    @cached_property
    def metrics(self) -> dict[str, Series]:
        """Every recorded series, read once."""
        path = self.directory / metrics.METRICS_NAME
        if not path.is_file():
            raise ValueError(f"expected {path}, the series of a run, got no such file; put it back")
        return metrics.read_metrics(path)

    def series(self, key: str) -> Series:
        """The series of one metric, empty when the run did not record it."""
        return self.metrics.get(key, metrics.empty_series())

    @cached_property
    def heldout(self) -> statistics.Heldout | None:
        """The loss of every held-out sequence at the end, None where it was not recorded."""
        return self.heldout_of("")

    def heldout_of(self, source: str) -> statistics.Heldout | None:
        """The same for one source, by its label."""
        suffix = f"_{source}" if source else ""
        nats, num_bytes = (self.series(f"heldout_{what}{suffix}") for what in ("nats", "bytes"))
        if self.diverged or not len(nats.steps_N):
            return None
        text = self.values.get("heldout_text") or ""
        return statistics.Heldout(nats.values_N[-1], num_bytes.values_N[-1], text)

    @property
    def diverged(self) -> bool:
        return self.status == "diverged"

    @property
    def arm(self) -> str:
        """The name of its arm, empty without arms; for a run without axes, its folder's name."""
        return self.axes.get(ARM, "") if self.axes else self.directory.name

    @property
    def seed(self) -> int:
        return self.axes.get(SEED, 0)

    @property
    def place(self) -> Place:
        return tuple((name, _hashable(self.axes[name])) for name in place_axes([self]))

    def axis(self, name: str) -> Any:
        """Its value on an axis, None where it has no such axis."""
        return self.axes.get(name)

    def value(self, key: str) -> float:
        """A number of its result, NaN where there is none."""
        value = self.values.get(key)
        return float(value) if isinstance(value, int | float) else math.nan


def load(directory: str | os.PathLike) -> Run:
    """Reads what a finished run left in its directory; ValueError where that is incomplete."""
    directory = Path(directory)
    path = directory / RESULT_NAME
    if not path.exists():
        raise ValueError(f"expected a finished run with {RESULT_NAME}, got {directory}")
    record = json.loads(path.read_text())
    missing = {"status", "steps", "axes", "values"} - record.keys()
    if missing:
        raise ValueError(f"{path} lacks {sorted(missing)}; it has {sorted(record)}")
    settings = directory / RUN_NAME
    seconds = record.get("seconds")
    return Run(
        directory=directory,
        status=record["status"],
        diverged_step=record.get("diverged_step"),
        steps=int(record["steps"]),
        seconds=math.nan if seconds is None else float(seconds),
        axes=record["axes"],
        values=record["values"],
        config=json.loads(settings.read_text()).get("config", {}) if settings.exists() else {},
    )


def arms(runs: Iterable[Run]) -> list[str]:
    """Arm names in the order in which they first appear."""
    return list(dict.fromkeys(run.arm for run in runs))


def place_axes(runs: Iterable[Run]) -> list[str]:
    """The axes other than arm and seed, in the order in which they first appear."""
    return list(dict.fromkeys(name for run in runs for name in run.axes if name not in (ARM, SEED)))


def places(runs: Sequence[Run]) -> list[Place]:
    """Every place that has a run, by its value on the first axis, then on the second and so on.

    Numbers are sorted; other values are in the order in which they first appear.
    """
    ranks = {name: _ranks(values_of(runs, name)) for name in place_axes(runs)}

    def key(place: Place) -> list[int]:
        values = dict(place)
        return [ranks[name][values[name]] if name in values else -1 for name in ranks]

    return sorted({run.place: None for run in runs}, key=key)


def values_of(runs: Iterable[Run], axis: str) -> list[Any]:
    """The values that runs have on an axis, each once."""
    return list(dict.fromkeys(_hashable(run.axes[axis]) for run in runs if axis in run.axes))


def are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)


def _ranks(values: list[Any]) -> dict[Any, int]:
    ordered = sorted(values) if are_numbers(values) else values
    return {value: rank for rank, value in enumerate(ordered)}


def select(runs: Iterable[Run], *, arm: str | None = None, place: Place | None = None) -> list[Run]:
    """The runs of one arm, at one place, or both: the seeds of one cell."""
    return [
        run
        for run in runs
        if (arm is None or run.arm == arm) and (place is None or run.place == place)
    ]


def short_names(axes: Iterable[str]) -> dict[str, str]:
    """The last part of each axis's path, or the whole path where two would have the same name."""
    axes = list(axes)
    last = [name.rpartition(".")[2] for name in axes]
    return {
        name: short if last.count(short) == 1 else name
        for name, short in zip(axes, last, strict=True)
    }


def place_words(place: Place, names: Mapping[str, str] | None = None) -> str:
    """A place in words, e.g. "lr 0.01, width 64"; `names` gives axes other names."""
    called = short_names(axis for axis, _ in place) | dict(names or {})
    return ", ".join(f"{called[axis]} {words(value)}" for axis, value in place)


def words(value: Any) -> str:
    """A value on an axis: a number in few digits, a list by its entries."""
    if isinstance(value, float):
        return progress.rate(value)
    if isinstance(value, tuple | list):
        return ",".join(words(one) for one in value)
    return value if isinstance(value, str) else json.dumps(value)


def _hashable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_hashable(one) for one in value)
    return json.dumps(value) if isinstance(value, dict) else value
