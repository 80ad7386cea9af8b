"""What an image shows, as JSON: all that decides its pixels.

    {"kind", "language", "title", "names", "values", "total", "look"}

`title` and `names` are indices into `words.KINDS`. `total` is what is printed, right or wrong; None
where the kind has no total. `look` is what decides no answer: typeface, size, place, greys.
"""

import random
from typing import Any

from kanana_jax.rollouts.tasks.images import words
from kanana_jax.rollouts.tasks.problem import Language

Record = dict[str, Any]


def draw(
    rng: random.Random,
    kind: str,
    language: Language,
    num_rows: int,
    *,
    is_wrong: bool = False,
) -> Record:
    """A record; with `is_wrong` its printed total is not the sum.

    Draws that decide the content come first, so that both languages have the same content.
    """
    of_kind = words.KINDS[kind]
    names = rng.sample(range(len(of_kind.names)), num_rows)
    values = [rng.randint(of_kind.smallest, of_kind.largest) for _ in names]
    total = sum(values) if of_kind.has_total else None
    # Changes the total as a slip of a digit or of a row would.
    slip = rng.choice((rng.choice(values), 10 * rng.randint(1, 5), rng.randint(1, 9)))
    sign = rng.choice((-1, 1))
    if is_wrong and total is not None:
        changed = total + sign * slip
        total = changed if changed > 0 else total + slip
    return {
        "kind": kind,
        "language": language,
        "title": rng.randrange(len(of_kind.titles)),
        "names": names,
        "values": values,
        "total": total,
        "look": {
            "face": rng.randrange(2),
            "size": rng.choice((12, 13, 14)),
            "left": rng.randint(2, 8),
            "top": rng.randint(0, 3),
            "right": rng.randint(2, 8),
            "paper": rng.randint(225, 255),
            "ink": rng.randint(0, 80),
            "noise": rng.randrange(2**31),
        },
    }


def content(record: Record) -> str:
    """What decides all answers, whatever the language and the look."""
    return f"{record['kind']} {record['names']} {record['values']} {record['total']}"


def name(record: Record, index: int, language: Language) -> str:
    """What row `index` is called in a language."""
    return words.KINDS[record["kind"]].names[record["names"][index]][language == "ko"]


def title(record: Record, language: Language) -> str:
    return words.KINDS[record["kind"]].titles[record["title"]][language == "ko"]


def is_right(record: Record) -> bool:
    """Whether the printed total is the sum."""
    return record["total"] == sum(record["values"])
