"""Rules of thumb on lengths and shares, with limits for each language.

    a rule drops what lies beyond its limit:  the anchor of the literature, or, where more than
    `most_dropped` of a language lie beyond that, the quantile that leaves `most_dropped` out

Anchors: Gopher (arXiv:2112.11446, table A1), FineWeb (2406.17557), and for languages that say more
with a character, the same rules in characters. A rule that counts words does not apply to these.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kanana_jax.data.curate import measures
from kanana_jax.data.curate.document import Document, Dropped, Verdict
from kanana_jax.data.curate.stage import Decision, Stage, Survey, Surveys, joined

_DENSE = ("ja", "zh", "th")
_FEWEST = 100  # documents that a language needs for meaningful quantiles


class Rule(NamedTuple):
    """Anchors for languages with spaces, for Korean, for those without spaces; None: no rule."""

    measure: str
    is_least: bool  # whether less than the limit is dropped, or more
    anchors: tuple[float | None, float | None, float | None]

    @property
    def name(self) -> str:
        return f"{'few' if self.is_least else 'many'} {self.measure}"

    def anchor(self, language: str) -> float | None:
        spaced, korean, dense = self.anchors
        return {"ko": korean}.get(language, dense if language in _DENSE else spaced)

    def is_beyond(self, value: Any, limit: float) -> Any:
        return value < limit if self.is_least else value > limit


RULES = (
    Rule("broken characters", False, (0.001, 0.001, 0.001)),
    Rule("characters", True, (200, 100, 80)),
    Rule("words", True, (40, 20, None)),
    Rule("words", False, (100_000, 100_000, None)),
    Rule("word length", True, (3.0, 1.5, None)),
    Rule("word length", False, (10.0, 8.0, None)),
    Rule("letters", True, (0.7, 0.65, 0.65)),
    Rule("digits", False, (0.15, 0.15, 0.15)),
    Rule("symbols", False, (0.1, 0.1, 0.1)),
    Rule("blanks", False, (0.25, 0.35, 0.15)),
    Rule("closed lines", True, (0.12, 0.12, 0.12)),
    Rule("short lines", False, (0.67, 0.67, 0.67)),
    Rule("bullets", False, (0.9, 0.9, 0.9)),
    Rule("ellipses", False, (0.3, 0.3, 0.3)),
    Rule("repeated lines", False, (0.3, 0.3, 0.3)),
    Rule("compressed", True, (0.2, 0.2, 0.2)),
)
_NAMES = tuple(dict.fromkeys(rule.measure for rule in RULES))


def stage(most_dropped: float) -> Stage:
    """most_dropped: the share of a language's documents that one rule may drop; 1: by anchors."""
    return Stage(
        name="heuristics",
        settings={"most_dropped": most_dropped},
        survey=_survey,
        decide=functools.partial(_decide, most_dropped=most_dropped),
        apply=_apply,
    )


def _survey(documents: Sequence[Document]) -> Survey:
    languages = [one.language for one in documents]
    texts = [one.text for one in documents]
    found = measures.of(texts, [language in _DENSE for language in languages])
    return {"language": np.array(languages, "U16")} | dict(found)


def _decide(surveys: Surveys, *, most_dropped: float) -> Decision:
    language_D = joined(surveys, "language")
    measured = {name: joined(surveys, name) for name in _NAMES}
    limits, told = {}, {}
    for language in np.unique(language_D).tolist():
        of_language = {name: values[language_D == language] for name, values in measured.items()}
        limits[language] = _limits(of_language, language, most_dropped)
        told[language] = _told(of_language, language, limits[language])
    return Decision([limits] * len(surveys), {"limits": told})


def _limits(measured: Survey, language: str, most_dropped: float) -> list[float | None]:
    """One for each rule."""
    return [_limit(rule, measured[rule.measure], language, most_dropped) for rule in RULES]


def _limit(rule: Rule, value_D: np.ndarray, language: str, most_dropped: float) -> float | None:
    anchor = rule.anchor(language)
    if anchor is None or len(value_D) < _FEWEST:
        return anchor
    if rule.is_beyond(value_D, anchor).mean() <= most_dropped:
        return anchor
    level = most_dropped if rule.is_least else 1.0 - most_dropped
    # A value that occurs, so that no more than the share lies beyond it.
    method = "lower" if rule.is_least else "higher"
    return float(np.quantile(value_D, level, method=method))


def _told(measured: Survey, language: str, limits: Sequence[float | None]) -> Mapping[str, Any]:
    """The anchor and the limit of each rule, and the share of documents beyond the limit."""
    return {
        rule.name: {
            "anchor": rule.anchor(language),
            "limit": round(limit, 4),
            "share": round(float(rule.is_beyond(measured[rule.measure], limit).mean()), 4),
        }
        for rule, limit in zip(RULES, limits, strict=True)
        if limit is not None
    }


def _apply(
    documents: Sequence[Document], survey: Survey, ruling: Mapping[str, Sequence[float | None]]
) -> list[Verdict]:
    return [
        _verdict(document, {name: float(survey[name][place]) for name in _NAMES}, ruling)
        for place, document in enumerate(documents)
    ]


def _verdict(
    document: Document, measured: Mapping[str, float], ruling: Mapping[str, Any]
) -> Verdict:
    for rule, limit in zip(RULES, ruling[document.language], strict=True):
        value = measured[rule.measure]
        if limit is not None and rule.is_beyond(value, limit):
            return Dropped(rule.name, f"{value:.4g}, limit {limit:.4g}")
    return document
