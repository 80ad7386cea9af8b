"""English numbers: digits with a scale behind them, and words."""

import re
from collections.abc import Iterator
from decimal import Decimal

from kanana_jax.synthesize.fidelity import words

_UNITS = {
    word: value
    for value, word in enumerate(
        words.listed("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen
""")
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate(
        words.listed("""
    twenty thirty forty fifty sixty seventy eighty ninety
"""),
        start=2,
    )
}
_ORDINALS = {
    word: value
    for value, word in enumerate(
        words.listed("""
    third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth
    fifteenth sixteenth seventeenth eighteenth nineteenth twentieth
"""),
        start=3,
    )
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_OTHERS = {"dozen": 12, "twice": 2, "thrice": 3, "half": Decimal("0.5"), "decade": 10,
           "century": 100, "double": 2, "doubled": 2, "triple": 3, "tripled": 3, "quarter":
           Decimal("0.25"), "halved": Decimal("0.5"), "once": 1, "first": 1, "second": 2,
           "both": 2, "pair": 2, "couple": 2, "fortnight": 14}  # fmt: skip
_DIGITS = (
    r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:(?=st\b|nd\b|rd\b|th\b|s\b)|(?![.]?\d))"
)
_DIGITAL = re.compile(rf"({_DIGITS})(?:[ -]?(thousand|million|billion|trillion|k|M|bn)\b)?")
_WORD = "|".join([*_UNITS, *_TENS, *_ORDINALS, "hundred", *_SCALES])
_WORDED = re.compile(
    rf"\b(?:an? )?(?:{_WORD})(?:(?:[ -]|,? and )(?:{_WORD})\b)*(?:s|ths?)?\b", re.IGNORECASE
)
_OTHER = re.compile(rf"\b(?:{'|'.join(_OTHERS)})\b", re.IGNORECASE)
_SHORT = {"k": 10**3, "m": 10**6, "bn": 10**9}
_MOST_UNCERTAIN = 10  # words of small numbers are used for much else


def of(text: str) -> Iterator[tuple[Decimal, int, int, bool]]:
    """(value, start, end, whether it is certain)."""
    taken: set[int] = set()
    for match in _DIGITAL.finditer(text):
        taken |= set(range(*match.span()))
        scale = (match[2] or "").lower()
        factor = _SCALES.get(scale) or _SHORT.get(scale, 1)
        yield Decimal(match[1].replace(",", "")) * factor, *match.span(), True
    for match in _WORDED.finditer(text):
        if match.start() in taken:  # the scale of digits
            continue
        for value in _values(match[0]):
            yield Decimal(value), *match.span(), value > _MOST_UNCERTAIN
    for match in _OTHER.finditer(text):
        yield Decimal(_OTHERS[match[0].lower()]), *match.span(), False


def _values(text: str) -> Iterator[int]:
    """The numbers that words in a row are: "twenty five", but also "one or two" in parts."""
    total, group, last = 0, 0, None
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in ("a", "an", "and"):
            continue
        if word in _SCALES:
            total, group, last = total + max(group, 1) * _SCALES[word], 0, "scale"
        elif word == "hundred":
            group, last = max(group, 1) * 100, "hundred"
        else:
            value = _UNITS.get(word, _TENS.get(word, _ORDINALS.get(word)))
            if value is None:
                continue
            kind = "tens" if word in _TENS else "unit"
            fits = last in (None, "hundred", "scale") or (last == "tens" and kind == "unit")
            if not fits:
                yield total + group
                total, group = 0, 0
            group, last = group + value, kind
    yield total + group
