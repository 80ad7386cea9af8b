"""Sums that a text writes out, computed exactly: 12 * 3 + 1 = 37 = 74 / 2.

It reads digits, + - * / ^, brackets, percent and their forms in LaTeX. What has a letter in it is
no sum. Nothing is executed: a parsed expression of these signs alone is walked, in fractions.
"""

import ast
import itertools
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction

_LONGEST, _MOST_POWER = 120, 20
# More digits than a sum has, or two numbers side by side.
_UNREAD = re.compile(r"\d{16}|[\d.)]\s+[\d(.]")
_LATEX = (
    (re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:times|cdot)(?![a-z])|[\u00d7\u00b7]"), "*"),
    (re.compile(r"\\div(?![a-z])|\u00f7"), "/"),
    (re.compile(r"\\left|\\right|\\[,;!]|\\?\$"), ""),
    (re.compile(r"[\u2212\u2013]"), "-"),
    (re.compile(r"\\?%"), "/100"),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\^\{([^{}]*)\}"), r"^(\1)"),
)  # fmt: skip
_APART = re.compile(r"(?<=[.,;:])\s|\n")
# Signs of sums with an equals sign between them; a letter right before or behind belongs to them.
_CHAIN = re.compile(r"[\w\\{}]*[\d(.+\-][\d\s.()+\-*/^]*(?:=[\d\s.()+\-*/^]+)+[\w\\{}]*")
_OF_SUM = re.compile(r"[\d\s.()+\-*/^]+")
_OPERATION = re.compile(r"[\d)]\s*[-+*/^]")
_PLAIN = re.compile(r"-?\d+(?:\.(\d+))?")

_BINARY: Mapping[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def value(text: str) -> Fraction | None:
    """The value of a number or a sum; None for what is neither, or too long to compute."""
    text = plain(text).strip().rstrip(".,")
    if not _OF_SUM.fullmatch(text) or len(text) > _LONGEST or _UNREAD.search(text):
        return None
    try:
        # Numbers are read from their digits: 0.1 is a tenth, and 007 is seven.
        spelt = re.sub(r"\d*\.?\d+|\d+\.", lambda one: f"'{one[0]}'", text.replace("^", "**"))
        return _walked(ast.parse(spelt, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def wrong(text: str) -> list[str]:
    """Equations in a text that do not hold, as written there but for signs and blanks.

    A side that is a decimal may be rounded to its last digit.
    """
    return [
        f"{left} = {right}"
        for chain in _chains(text)
        for left, right in itertools.pairwise(chain)
        if _OPERATION.search(f"{left} {right}") and not _holds(left, right)
    ]


def plain(text: str) -> str:
    """The text with ASCII signs in place of LaTeX's and others."""
    for pattern, sign in _LATEX:
        text = pattern.sub(sign, text)
    return text


def _chains(text: str) -> Iterator[list[str]]:
    for part in _APART.split(plain(text)):
        for found in _CHAIN.findall(part):
            yield [" ".join(one.strip().rstrip(".,").split()) for one in found.split("=")]


def _holds(left: str, right: str) -> bool:
    """Whether two sides agree; also true if one has no value, as in x + 3 = 5."""
    first, second = value(left), value(right)
    if first is None or second is None:
        return True
    return abs(first - second) <= max(_rounding(left), _rounding(right))


def _rounding(side: str) -> Fraction:
    """Half of the last digit of a decimal; whole numbers and sums are exact."""
    found = _PLAIN.fullmatch(side)
    return Fraction(1, 2 * 10 ** len(found[1])) if found and found[1] else Fraction(0)


def _walked(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=str() as digits):
            return Fraction(digits)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_walked(operand)
        case ast.BinOp(op=ast.Pow(), left=base, right=exponent):
            power = _walked(exponent)
            if power.denominator != 1 or abs(power) > _MOST_POWER:
                raise ValueError(f"the power {power} is not computed")
            return _walked(base) ** int(power)
        case ast.BinOp(op=sign, left=left, right=right) if type(sign) in _BINARY:
            return _BINARY[type(sign)](_walked(left), _walked(right))
    raise ValueError(f"no sum: {type(node).__name__}")
