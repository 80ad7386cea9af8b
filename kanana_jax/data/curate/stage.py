"""A stage of curation: three functions, of which the first two are optional.

    survey(documents of a shard)           -> arrays, a row per document
    decide(shards)                         -> a ruling for each shard, and what the report tells
    apply(documents, survey, ruling)       -> a verdict for each document

`survey` and `apply` run in worker processes, shard by shard; `decide` sees the surveys of all
shards at once, in order. The functions can be pickled and depend on their arguments alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from kanana_jax.data.curate.document import Document, Verdict

Survey = Mapping[str, np.ndarray]
Surveys = Sequence[Survey]


class Decision(NamedTuple):
    rulings: Sequence[Any]  # JSON, one for each shard
    told: Mapping[str, Any] = {}  # JSON, for the report


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)  # JSON: a run with others is refused
    apply: Callable[[Sequence[Document], Survey, Any], list[Verdict]]
    survey: Callable[[Sequence[Document]], Survey] | None = None
    decide: Callable[[Surveys], Decision] | None = None
    # Whether it holds a model: there is only one, so its shards are done one after another.
    is_alone: bool = False


class Row(NamedTuple):
    """The place of a document among all shards."""

    shard: int
    place: int


def rows(surveys: Surveys, column: str) -> Iterator[Row]:
    """The documents of all shards in order; `column` is one that every survey has."""
    for shard, survey in enumerate(surveys):
        for place in range(len(survey[column])):
            yield Row(shard, place)


def joined(surveys: Surveys, column: str) -> np.ndarray:
    """A column of all shards, one after another."""
    return np.concatenate([survey[column] for survey in surveys])
