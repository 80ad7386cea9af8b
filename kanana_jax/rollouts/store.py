"""What was collected in a round, on disk before it is trained on.

DIR/rounds/0003.jsonl    {"segments": [{"ids": [...], "origins": [...]}, ...], "about": {...}}
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

from kanana_jax.data import whole_files

FOLDER = "rounds"


class Segment(NamedTuple):
    ids: tuple[int, ...]
    origins: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Collected:
    """An example to train on, and what is known of it."""

    segments: tuple[Segment, ...]
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        segments = (Segment(tuple(one["ids"]), tuple(one["origins"])) for one in fields["segments"])
        return cls(segments=tuple(segments), about=fields["about"])

    def to_json(self) -> dict[str, Any]:
        return {"segments": [one._asdict() for one in self.segments], "about": dict(self.about)}


class Round(NamedTuple):
    examples: tuple[Collected, ...]
    figures: Mapping[str, float]


def write(directory: Path, number: int, found: Round) -> None:
    lines = (json.dumps(one.to_json(), ensure_ascii=False) for one in found.examples)
    base = directory / FOLDER / f"{number:04d}"
    base.parent.mkdir(parents=True, exist_ok=True)
    _write(base.with_suffix(".jsonl"), "".join(f"{line}\n" for line in lines))
    _write(base.with_suffix(".json"), json.dumps(dict(found.figures), indent=2))


def read(directory: Path, number: int) -> Round | None:
    """None where the round is not finished."""
    base = directory / FOLDER / f"{number:04d}"
    if not base.with_suffix(".json").exists():
        return None
    lines = base.with_suffix(".jsonl").read_text().splitlines()
    examples = tuple(Collected.from_json(json.loads(line)) for line in lines)
    return Round(examples, json.loads(base.with_suffix(".json").read_text()))


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
