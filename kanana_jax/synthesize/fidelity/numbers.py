"""Numbers of a text by value, in digits and in words: 12,500 = twelve thousand five hundred.

    certain     in digits, or in words that can be nothing else
    possible    these, and words that may be a number: what a number of another text may have become

English and Korean words are read; of other languages, only digits.
"""

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from kanana_jax.synthesize.fidelity import english_numbers, korean_numbers


class Number(NamedTuple):
    value: Decimal
    start: int
    end: int  # of its place in the text
    is_certain: bool


_DIGITS = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![.]?\d)")
_INSIDE_CODE = re.compile(r"`[^`\n]+`")
_LIST_MARK = re.compile(r"^[ \t]*(?:#+ )?(?:Step )?\d{1,2}[.):](?= )", re.MULTILINE)


def of(text: str, language: str) -> list[Number]:
    """In order of their places. Marks of lists and what is in code are no numbers."""
    masked = _masked(text)
    if language == "ko":
        found = korean_numbers.of(masked)
    elif language == "en":
        found = english_numbers.of(masked)
    else:
        found = (
            (Decimal(m[0].replace(",", "")), *m.span(), True) for m in _DIGITS.finditer(masked)
        )
    return [Number(value.normalize(), *rest) for value, *rest in _in_order(found)]


def _masked(text: str) -> str:
    """With blanks in place of code and list marks, so that places stay."""
    for pattern in (_INSIDE_CODE, _LIST_MARK):
        text = pattern.sub(lambda match: " " * len(match[0]), text)
    return text


def _in_order(found: Iterator) -> list:
    return sorted(found, key=lambda one: one[1])
