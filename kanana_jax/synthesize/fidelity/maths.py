"""The final answer of a solution, computed where it is a sum, and whether two have the same one.

\\boxed{...}, else what follows "Answer:" or its like, else the last number of the text
"""

import re
from fractions import Fraction

from kanana_jax.synthesize.fidelity import numbers, sums

_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_NAMED = re.compile(
    r"(?:final answer|answer|답)\s?(?:is|은|는|:|=)\s*\**([^\n]+?)\**[.\u3002]?\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_FRACTION = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
_RATIO = re.compile(r"(?<![\d.])(-?\d+(?:\.\d+)?)(?:\s*/\s*(\d+))?(?![\d.]*\d)")


def final_answer(text: str, language: str) -> str:
    """As it stands there; empty where there is none."""
    for pattern in (_BOXED, _NAMED):
        found = pattern.findall(text)
        if found:
            return found[-1].strip()
    values = numbers.of(text, language)
    return f"{values[-1].value:f}" if values else ""


def agree(source: str, rewrite: str, language: str) -> bool:
    """Whether both have an answer, with the same value or else the same letters."""
    ours, theirs = (final_answer(text, language) for text in (source, rewrite))
    if not ours or not theirs:
        return False
    first, second = _value(ours), _value(theirs)
    if first is not None and second is not None:
        return first == second
    return _letters(ours) == _letters(theirs)


def _value(answer: str) -> Fraction | None:
    """The value of an answer that is a sum, or one number, with or without a unit."""
    computed = sums.value(answer)
    if computed is not None:
        return computed
    plain = _FRACTION.sub(r"\1/\2", answer).replace(",", "")
    found = _RATIO.findall(plain)
    if len(found) != 1 or found[0][1] in ("0", "00") or re.search(r"[a-z]\s*[=^+*]|\^", plain):
        return None
    return Fraction(found[0][0]) / Fraction(found[0][1] or 1)


def _letters(answer: str) -> str:
    return re.sub(r"[\s$\\{}]|text", "", answer).lower()
