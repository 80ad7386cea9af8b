"""What a stage kept and dropped: counts for each language and reason, and samples of each."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kanana_jax.data.curate.document import Document, Dropped, Verdict

NUM_SAMPLES = 3
_SHOWN = 160  # characters of a sample
UNKNOWN = "-"  # in place of a language that is not identified yet


def of(documents: Sequence[Document], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """{"kept": {language: [documents, bytes]}, "dropped": {reason: {language: ...}}, "samples"}."""
    kept: dict[str, list[int]] = {}
    dropped: dict[str, dict[str, list[int]]] = {}
    samples: dict[str, list[list[str]]] = {}
    for document, verdict in zip(documents, verdicts, strict=True):
        if isinstance(verdict, Dropped):
            language = document.language or UNKNOWN
            _add(dropped.setdefault(verdict.reason, {}), language, document.text)
            name = f"{verdict.reason} | {language}"
            samples.setdefault(name, []).append(_sample(document, verdict))
        else:
            _add(kept, verdict.language or UNKNOWN, verdict.text)
    return {"kept": kept, "dropped": dropped, "samples": {k: _few(v) for k, v in samples.items()}}


def total(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all shards."""
    kept: dict[str, list[int]] = {}
    dropped: dict[str, dict[str, list[int]]] = {}
    samples: dict[str, list[list[str]]] = {}
    for part in parts:
        _merge(kept, part["kept"])
        for reason, by_language in part["dropped"].items():
            _merge(dropped.setdefault(reason, {}), by_language)
        for name, few in part["samples"].items():
            samples[name] = _few(samples.get(name, []) + few)
    return {"kept": kept, "dropped": dropped, "samples": samples}


def _add(by_language: dict[str, list[int]], language: str, text: str) -> None:
    _merge(by_language, {language: [1, len(text.encode())]})


def _merge(into: dict[str, list[int]], more: Mapping[str, Sequence[int]]) -> None:
    for language, (number, size) in more.items():
        before = into.get(language, [0, 0])
        into[language] = [before[0] + number, before[1] + size]


def _sample(document: Document, why: Dropped) -> list[str]:
    """A sample, behind a number as random as the id, by which samples are chosen."""
    draw = hashlib.blake2b(document.id.encode(), digest_size=6).hexdigest()
    text = " ".join(document.text[: 4 * _SHOWN].split())[:_SHOWN]
    return [draw, document.id, why.detail, text]


def _few(samples: list[list[str]]) -> list[list[str]]:
    return sorted(samples)[:NUM_SAMPLES]
