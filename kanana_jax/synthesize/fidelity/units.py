"""Units behind numbers, one name for each: 5 km = five kilometres = 5 킬로미터."""

import re
from collections.abc import Sequence

from kanana_jax.synthesize.fidelity.numbers import Number

_SPELLINGS = {
    "percent": "% percent per\\s?cent 퍼센트 프로",
    "point": "(?:percentage\\s?)?points? 퍼센트포인트 %포인트 %p",
    "kilometre": "km kilomet(?:er|re)s? 킬로미터",
    "metre": "m met(?:er|re)s? 미터",
    "centimetre": "cm centimet(?:er|re)s? 센티미터 센티",
    "millimetre": "mm millimet(?:er|re)s? 밀리미터",
    "mile": "miles? 마일",
    "foot": "ft feet foot 피트",
    "inch": "inch(?:es)? 인치",
    "kilogram": "kg kilograms? kilos? 킬로그램",
    "gram": "g grams? 그램",
    "ounce": "oz ounces? 온스",
    "tonne": "tons? tonnes? 톤",
    "pound": "lbs? pounds? 파운드",
    "litre": "l lit(?:er|re)s? 리터",
    "millilitre": "ml millilit(?:er|re)s? 밀리리터",
    "gallon": "gallons? 갤런",
    "celsius": "\u00b0c \u00b0\\s?celsius degrees\\s?celsius 섭씨\\s?도",
    "fahrenheit": "\u00b0f degrees\\s?fahrenheit",
    "degree": "\u00b0 degrees? 도",
    "hectare": "ha hectares? 헥타르",
    "acre": "acres? 에이커",
    "second": "s seconds? 초",
    "minute": "min minutes? 분(?!의)",
    "hour": "h hours? 시간",
    "day": "days? 일(?:간|동안|\\s?뒤|\\s?후|\\s?전)?",
    "week": "weeks? 주(?:간|일)?",
    "month": "months? 개월 달(?!러)",
    "year": "years? 년(?:간|동안)?",
    "dollar": "dollars? usd 달러",
    "euro": "euros? eur 유로",
    "won": "won krw 원",
    "yen": "yen jpy 엔",
    "watt": "w watts? 와트",
    "kilowatt": "kw kilowatts? 킬로와트",
    "megawatt": "mw megawatts? 메가와트",
    "volt": "v volts? 볼트",
    "gigabyte": "gb gigabytes? 기가바이트",
    "megabyte": "mb megabytes? 메가바이트",
    "terabyte": "tb terabytes? 테라바이트",
    "kilobyte": "kb kilobytes? 킬로바이트",
    "person": "people persons? 명 사람 인당",
}
# Numbers that are units: of one second, minute, hour.
_RATES = {"초속": "second", "분속": "minute", "시속": "hour"}
_SIGNS = {"$": "dollar", "\u20ac": "euro", "\u20a9": "won", "\u00a5": "yen", "\u00a3": "sterling"}


_ENDS_LATIN = "(?![A-Za-z])"
# A single syllable is a unit only at the end of a word, or before a particle.
_ENDS_SYLLABLE = (
    "(?=[^가-힣]|$|은|는|이|가|을|를|의|에|로|만|도|쯤|씩|까|부|보|나|정|동|간|마|짜|당|뿐|밖|후|뒤|전|"
    "과|와|으|라|인|다|지|째|밤|안|이)"
)


def _behind() -> re.Pattern[str]:
    parts = []
    for name, spelled in _SPELLINGS.items():
        for one in spelled.split():
            end = _ENDS_LATIN if re.match(r"[a-z\u00b0%]", one) else ""
            end = _ENDS_SYLLABLE if re.fullmatch("[가-힣]", one) else end
            parts.append((len(one), f"(?P<{name}_{len(parts)}>{one}{end})"))
    longest_first = "|".join(text for _, text in sorted(parts, reverse=True))
    return re.compile(
        rf"[ -]?(?:(?:square|cubic|제곱|세제곱) ?)?(?:{longest_first})", re.IGNORECASE
    )


_BEHIND = _behind()


def of(text: str, number: Number) -> str | None:
    """The name of the unit at a number; None where there is none that is known."""
    if (rate := text[number.start : number.end]) in _RATES:
        return _RATES[rate]
    before = text[: number.start].rstrip()[-1:]
    if before in _SIGNS and before:
        return _SIGNS[before]
    match = _BEHIND.match(text, number.end)
    if match is None or match.lastgroup is None:
        return None
    return match.lastgroup.rpartition("_")[0]


def by_value(text: str, found: Sequence[Number]) -> dict:
    """The units that each value has in a text."""
    units: dict = {}
    for number in found:
        unit = of(text, number)
        if unit is not None:
            units.setdefault(number.value, set()).add(unit)
    return units
