"""Questions on a record, each with its answer and the steps to it in either language.

    read      What is X?                       X 31                           31
    list      What stands there?               -                              coffee 24, bread 31
    sum       What do all come to?             coffee 24=24; bread 31=55      55
    filter    What do all but X, Y come to?    coffee 24=24; bread -; tea 7=31  31
    compare   Which is larger, X or Y?         coffee 24, bread 31            bread
    audit     Is the printed total right?      coffee 24=24; bread 31=55; total 65  wrong

A step of a running sum holds the row's number and the sum so far; a row that does not count has a
dash. So each step can be checked against the image and the step before it.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from kanana_jax import korean
from kanana_jax.rollouts.tasks.images import record as records
from kanana_jax.rollouts.tasks.images import words
from kanana_jax.rollouts.tasks.images.record import Record
from kanana_jax.rollouts.tasks.problem import Language

RIGHT: words.Pair = ("right", "맞음")
WRONG: words.Pair = ("wrong", "틀림")


class Question(NamedTuple):
    """A kind of question. `pick` chooses the rows that it names; `trace` may be empty."""

    kinds: tuple[str, ...]  # of images that it can be asked about
    pick: Callable[[random.Random, Record], list[int]]
    ask: Callable[[Record, list[int], Language], str]
    answer: Callable[[Record, list[int], Language], str]
    trace: Callable[[Record, list[int], Language], str]


def _one(rng: random.Random, record: Record) -> list[int]:
    return [rng.randrange(len(record["values"]))]


def _none(rng: random.Random, record: Record) -> list[int]:
    return []


def _few(rng: random.Random, record: Record) -> list[int]:
    """Some of the rows, never all but one."""
    most = max(1, min(2, len(record["values"]) - 2))
    return sorted(rng.sample(range(len(record["values"])), rng.randint(1, most)))


def _unequal(rng: random.Random, record: Record) -> list[int]:
    """Two rows with different numbers; one row twice if all are the same."""
    rows = list(range(len(record["values"])))
    rng.shuffle(rows)
    others = [n for n in rows if record["values"][n] != record["values"][rows[0]]]
    return [rows[0], others[0] if others else rows[0]]


def _cell(record: Record, index: int, language: Language) -> str:
    return f"{records.name(record, index, language)} {record['values'][index]}"


def _named(record: Record, rows: list[int], language: Language) -> str:
    return ", ".join(records.name(record, n, language) for n in rows)


def running_sum(record: Record, left_out: list[int], language: Language) -> str:
    """The steps of a sum over all rows that are not left out."""
    steps, total = [], 0
    for n, value in enumerate(record["values"]):
        if n in left_out:
            steps.append(f"{records.name(record, n, language)} -")
            continue
        total += value
        steps.append(f"{_cell(record, n, language)}={total}")
    return "; ".join(steps)


def _ask_read(record: Record, rows: list[int], language: Language) -> str:
    name = _named(record, rows, language)
    return f"{name}?" if language == "en" else f"{korean.with_particle(name, '은')}?"


def _ask_filter(record: Record, rows: list[int], language: Language) -> str:
    names = _named(record, rows, language)
    return f"sum without {names}?" if language == "en" else f"{names} 빼고 합은?"


def _ask_compare(record: Record, rows: list[int], language: Language) -> str:
    names = _named(record, rows, language)
    return f"larger: {names}?" if language == "en" else f"큰 것: {names}?"


def _asked(en: str, ko: str) -> Callable[[Record, list[int], Language], str]:
    return lambda record, rows, language: en if language == "en" else ko


def _sum(record: Record, left_out: list[int], language: Language) -> str:
    return str(sum(value for n, value in enumerate(record["values"]) if n not in left_out))


def _larger(record: Record, rows: list[int], language: Language) -> str:
    return records.name(record, max(rows, key=lambda n: record["values"][n]), language)


def _verdict(record: Record, rows: list[int], language: Language) -> str:
    return (RIGHT if records.is_right(record) else WRONG)[language == "ko"]


def _audited(record: Record, rows: list[int], language: Language) -> str:
    total = words.TOTAL[language == "ko"]
    return f"{running_sum(record, [], language)}; {total} {record['total']}"


def _everything(record: Record, rows: list[int], language: Language) -> str:
    cells = [_cell(record, n, language) for n in range(len(record["values"]))]
    if record["total"] is not None:
        cells.append(f"{words.TOTAL[language == 'ko']} {record['total']}")
    return ", ".join(cells)


_ALL = tuple(words.KINDS)
_WITH_TOTAL = tuple(name for name, kind in words.KINDS.items() if kind.has_total)
QUESTIONS: dict[str, Question] = {
    "read": Question(
        _ALL,
        _one,
        _ask_read,
        lambda record, rows, language: str(record["values"][rows[0]]),
        lambda record, rows, language: _cell(record, rows[0], language),
    ),
    "list": Question(_ALL, _none, _asked("read all", "모두 읽어"), _everything, lambda *given: ""),
    "sum": Question(
        _ALL,
        _none,
        _asked("sum?", "합은?"),
        _sum,
        lambda record, rows, language: running_sum(record, [], language),
    ),
    "filter": Question(_ALL, _few, _ask_filter, _sum, running_sum),
    "compare": Question(
        _ALL,
        _unequal,
        _ask_compare,
        _larger,
        lambda record, rows, language: ", ".join(_cell(record, n, language) for n in rows),
    ),
    "audit": Question(
        _WITH_TOTAL, _none, _asked("total right?", "합계가 맞아?"), _verdict, _audited
    ),
}
