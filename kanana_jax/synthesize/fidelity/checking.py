"""Checks a rewrite against its source: what is missing, what was added, what is no rewrite.

recall       facts of the source that the rewrite lacks       number, unit, month, name, code
precision    facts of the rewrite that the source lacks       number, name
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple, get_args

from kanana_jax.data.curate import language as languages
from kanana_jax.synthesize.fidelity import (
    coverage,
    korean_words,
    maths,
    names,
    numbers,
    sums,
    units,
)

Kind = Literal[
    "number missing", "number added", "unit changed", "month missing", "name missing",
    "name added", "code missing", "sentence missing", "length", "language", "copied", "repeated",
    "answer changed", "sum wrong", "judged",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)


class Problem(NamedTuple):
    kind: Kind
    detail: str


@dataclass(frozen=True, kw_only=True)
class Limits:
    shortest: float = 0.4  # characters of the rewrite for one of the source
    longest: float = 3.0
    least_coverage: float = 0.15  # share of a sentence's own words that the rewrite has
    most_copied: float = 0.7
    most_repeated: float = 0.2


def prepare(language: str) -> None:
    """Loads what `check` needs for a language, the extra `korean` for Korean.

    ModuleNotFoundError says how to install what is missing.
    """
    if language == "ko":
        korean_words.analyser()


def check(source: str, rewrite: str, language: str, limits: Limits = Limits()) -> list[Problem]:
    """What is wrong with a rewrite of a source in the same language."""
    return [
        *_of_form(source, rewrite, language, limits),
        *_of_numbers(source, rewrite, language),
        *_of_names(source, rewrite, language),
        *(
            Problem("sentence missing", one[:80])
            for one in coverage.missing(source, rewrite, language, limits.least_coverage)
        ),
    ]


def check_answer(source: str, rewrite: str, language: str) -> list[Problem]:
    """What is wrong with the final answer of a rewritten solution, and with its sums.

    A wrong sum that the source has, too, is the source's.
    """
    of_source = sums.wrong(source)
    found = [Problem("sum wrong", one) for one in sums.wrong(rewrite) if one not in of_source]
    if not maths.agree(source, rewrite, language):
        ours, theirs = (maths.final_answer(text, language) for text in (source, rewrite))
        found.append(Problem("answer changed", f"{ours or 'none'} to {theirs or 'none'}"))
    return found


def _of_form(source: str, rewrite: str, language: str, limits: Limits) -> Iterator[Problem]:
    ratio = len(rewrite.strip()) / max(len(source.strip()), 1)
    if not limits.shortest <= ratio <= limits.longest:
        yield Problem("length", f"{ratio:.2f} of the source's")
    before, now = (languages.identify([text], _latin)[0][0] for text in (source, rewrite))
    if before != now:
        yield Problem("language", f"{now or 'no letters'} for {before or 'no letters'}")
    share = coverage.copied(source, rewrite, language)
    if share > limits.most_copied:
        yield Problem("copied", f"{share:.2f}")
    share = coverage.repeated(rewrite, language)
    if share > limits.most_repeated:
        yield Problem("repeated", f"{share:.2f}")


def _latin(text: str) -> tuple[str, float]:
    return "latin", 1.0


def _of_numbers(source: str, rewrite: str, language: str) -> Iterator[Problem]:
    of_source, of_rewrite = numbers.of(source, language), numbers.of(rewrite, language)
    possible_there = {one.value for one in of_rewrite}
    possible_here = {one.value for one in of_source}
    for value in _certain(source, of_source):
        if value not in possible_there:
            yield Problem("number missing", f"{value:f}")
    for value in _certain(rewrite, of_rewrite):
        if value not in possible_here:
            yield Problem("number added", f"{value:f}")
    there = units.by_value(rewrite, of_rewrite)
    for value, wanted in units.by_value(source, of_source).items():
        if value in there and not _agree(wanted, there[value]):
            shown = f"{value:f} {'/'.join(sorted(wanted))} as {'/'.join(sorted(there[value]))}"
            yield Problem("unit changed", shown)
    here_months = names.months(source, language)
    for month in sorted(here_months - names.months(rewrite, language)):
        yield Problem("month missing", str(month))


def _certain(text: str, found: Sequence[numbers.Number]) -> dict[Decimal, None]:
    """Values that are surely numbers: also small ones in words, if a unit follows."""
    return dict.fromkeys(
        one.value
        for one in found
        if one.is_certain or (one.value > 1 and units.of(text, one) is not None)
    )


def _agree(wanted: set[str], found: set[str]) -> bool:
    """Whether the rewrite has every unit that a value has in the source; a degree may be any."""
    kinds = {"celsius": "degree", "fahrenheit": "degree"}
    if "degree" in wanted | found:
        wanted, found = ({kinds.get(one, one) for one in side} for side in (wanted, found))
    return wanted <= found


def _of_names(source: str, rewrite: str, language: str) -> Iterator[Problem]:
    here, there = source.lower(), rewrite.lower()
    for group in sorted(names.groups(source, language)):
        if group[-1] not in there:
            yield Problem("name missing", " ".join(group))
    for name in sorted(names.of(rewrite, language)):
        # A Korean compound of one of the source's names and a noun may be taken for a name.
        known = name if language != "ko" else name[:2]
        if known not in here:
            yield Problem("name added", name)
    for span in sorted(names.code(source)):
        if span not in rewrite:
            yield Problem("code missing", span)
