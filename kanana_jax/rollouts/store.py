"""What was collected in a round, on disk before it is trained on.

DIR/rounds/0003.jsonl    {"segments": [{"ids": [...], "origins": [...]}, ...], "about": {...}}
DIR/rounds/0003.rest     what later rounds go on from
DIR/rounds/0003.json     the figures of the round

A segment is a sequence to train on; an example has one, or the two of a pair. The figures are
written last: a round without them was not finished and is collected again.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from kanana_jax.data import whole_files
from kanana_jax.generate.answers import routes_from_json, routes_to_json

FOLDER = "rounds"


class Segment(NamedTuple):
    ids: tuple[int, ...]
    origins: tuple[int, ...]
    # Further numbers of every id, by the name of the column of `Batch.extra` that they fill.
    columns: Mapping[str, tuple[float, ...]] = {}
    routes: np.ndarray | None = None  # (ids but the last, L, K): the experts that they go to

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        columns = {name: tuple(one) for name, one in fields.get("columns", {}).items()}
        routes = routes_from_json(fields.get("routes"))
        return cls(tuple(fields["ids"]), tuple(fields["origins"]), columns, routes)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"ids": self.ids, "origins": self.origins}
        if self.columns:
            found["columns"] = dict(self.columns)
        if self.routes is not None:
            found["routes"] = routes_to_json(self.routes)
        return found


@dataclass(frozen=True, kw_only=True)
class Collected:
    """An example to train on, and what is known of it."""

    segments: tuple[Segment, ...]
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        segments = map(Segment.from_json, fields["segments"])
        return cls(segments=tuple(segments), about=fields["about"])

    def to_json(self) -> dict[str, Any]:
        return {"segments": [one.to_json() for one in self.segments], "about": dict(self.about)}


class Round(NamedTuple):
    examples: tuple[Collected, ...]
    figures: Mapping[str, float]
    rest: Any = None  # JSON


def write(directory: Path, number: int, found: Round) -> None:
    lines = (json.dumps(one.to_json(), ensure_ascii=False) for one in found.examples)
    base = directory / FOLDER / f"{number:04d}"
    base.parent.mkdir(parents=True, exist_ok=True)
    _write(base.with_suffix(".jsonl"), "".join(f"{line}\n" for line in lines))
    if found.rest is not None:
        _write(base.with_suffix(".rest"), json.dumps(found.rest, ensure_ascii=False))
    _write(base.with_suffix(".json"), json.dumps(dict(found.figures), indent=2))


def read(directory: Path, number: int) -> Round | None:
    """None where the round is not finished."""
    base = directory / FOLDER / f"{number:04d}"
    if not base.with_suffix(".json").exists():
        return None
    lines = base.with_suffix(".jsonl").read_text().splitlines()
    examples = tuple(Collected.from_json(json.loads(line)) for line in lines)
    rest = base.with_suffix(".rest")
    return Round(
        examples,
        json.loads(base.with_suffix(".json").read_text()),
        json.loads(rest.read_text()) if rest.exists() else None,
    )


def joined(parts: Sequence[Sequence[Collected]]) -> list[Collected]:
    """All examples, each sequence of ids once."""
    found: dict[Any, Collected] = {}
    for part in parts:
        for one in part:
            found.setdefault(tuple(segment.ids for segment in one.segments), one)
    return list(found.values())


def _write(path: Path, text: str) -> None:
    with whole_files.replaced(path) as unfinished:
        unfinished.write_text(text)
