"""The report of a run: what each stage kept and dropped, by language and reason, with samples."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kanana_jax.data import whole_files
from kanana_jax.data.curate import shards

_MOST_CHARACTERS = 100  # of a sample in the table


def of(names: Sequence[str], done: Sequence[Mapping[str, Any]], plan: Any) -> dict[str, Any]:
    """JSON: the plan, and the counts of each stage in order."""
    stages = [
        {"name": name, **{key: one[key] for key in ("kept", "dropped", "samples", "told")}}
        for name, one in zip(names, done, strict=True)
    ]
    return {"plan": plan, "stages": stages}


def write(found: Mapping[str, Any], out: pathlib.Path) -> None:
    """Writes report.json, and report.md for readers."""
    shards.write_json(out / "report.json", found)
    with whole_files.written(out / "report.md") as file:
        file.writelines(f"{line}\n" for line in _lines(found))


def line(name: str, done: Mapping[str, Any]) -> str:
    """What a finished stage has done, in one line."""
    number, size = _sum(done["kept"])
    dropped = sum(_sum(by_language)[0] for by_language in done["dropped"].values())
    return f"{name}: {number:,} documents kept ({size / 1e6:.2f} MB), {dropped:,} dropped"


def _sum(by_language: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    return sum(one[0] for one in by_language.values()), sum(one[1] for one in by_language.values())


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield "# Curation"
    yield ""
    yield "| stage | documents kept | MB kept | dropped | by reason |"
    yield "|---|---|---|---|---|"
    for stage in found["stages"]:
        number, size = _sum(stage["kept"])
        reasons = {reason: _sum(one)[0] for reason, one in sorted(stage["dropped"].items())}
        shown = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
        yield (
            f"| {stage['name']} | {number:,} | {size / 1e6:.2f} | {sum(reasons.values()):,} | "
            f"{shown} |"
        )
    yield ""
    yield from _by_language(found["stages"])
    yield from _limits(found["stages"])
    yield from _samples(found["stages"])


def _by_language(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    languages = sorted({language for stage in stages for language in stage["kept"]})
    yield "## Documents by language"
    yield ""
    yield f"| stage | {' | '.join(languages)} |"
    yield f"|---|{'---|' * len(languages)}"
    for stage in stages:
        kept = [stage["kept"].get(language, [0])[0] for language in languages]
        yield f"| {stage['name']} | {' | '.join(f'{count:,}' for count in kept)} |"
    yield ""


def _limits(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The limits of heuristics, where they drop something."""
    rows = [
        f"| {language} | {rule} | {one['anchor']:g} | {one['limit']:g} | {100 * one['share']:.1f} |"
        for stage in stages
        for language, rules in sorted(stage["told"].get("limits", {}).items())
        for rule, one in sorted(rules.items())
        if one["share"] > 0
    ]
    if rows:
        yield "## Limits of rules"
        yield ""
        yield "| language | rule | anchor | limit | % beyond |"
        yield "|---|---|---|---|---|"
        yield from rows
        yield ""


def _samples(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "## Samples of what was dropped"
    yield ""
    yield "| stage | reason, language | case | text |"
    yield "|---|---|---|---|"
    for stage in stages:
        for name, samples in sorted(stage["samples"].items()):
            for _, _, detail, text in samples:
                shown = text[:_MOST_CHARACTERS].replace("|", "\\|")
                reason = name.replace(" | ", ", ")
                yield f"| {stage['name']} | {reason} | {detail} | {shown} |"
