"""Korean numbers: digits with 만, 억 and the like, Sino-Korean words, native words with counters.

12만 5천 = 125000        만 이천오백 = 12500        스물세 명 = 23
"""

import re
from collections.abc import Iterator
from decimal import Decimal

_DIGITS = {c: value for value, c in enumerate("영일이삼사오육칠팔구")} | {"공": 0, "륙": 6}
_SMALL = {"십": 10, "백": 100, "천": 1000}
_LARGE = {"만": 10**4, "억": 10**8, "조": 10**12}
_NATIVE = {"하나": 1, "한": 1, "둘": 2, "두": 2, "셋": 3, "세": 3, "석": 3, "넷": 4, "네": 4,
           "넉": 4, "다섯": 5, "여섯": 6, "일곱": 7, "여덟": 8, "아홉": 9}  # fmt: skip
_TENS = {"열": 10, "스물": 20, "스무": 20, "서른": 30, "마흔": 40, "쉰": 50, "예순": 60,
         "일흔": 70, "여든": 80, "아흔": 90}  # fmt: skip
_OTHERS = {"절반": Decimal("0.5"), "첫째": 1, "둘째": 2, "셋째": 3, "넷째": 4, "이틀": 2,
           "사흘": 3, "나흘": 4, "닷새": 5, "엿새": 6, "열흘": 10, "보름": 15,
           "하루": 1, "갑절": 2, "초속": 1, "분속": 1, "시속": 1}  # fmt: skip
# What is counted; a word in front of one of these is a number.
COUNTERS = (
    "명", "개", "원", "년", "월", "일", "주", "시간", "시", "분", "초", "살", "세", "마리", "권",
    "장", "대", "곳", "가지", "번", "차례", "배", "층", "미터", "킬로미터", "킬로그램", "그램",
    "톤", "리터", "퍼센트", "도", "달러", "달", "개월", "주년", "세기", "회", "위", "등", "호",
    "편", "점", "종", "군데", "사람", "그루", "척", "채", "쪽", "단계", "학년", "인분", "제곱미터",
    "볼트", "와트", "센티미터", "밀리미터", "해", "켤레", "송이", "잔", "병", "줄", "째", "차",
    "포기", "통", "칸", "자루", "방울", "박", "모금", "센트", "유로", "엔", "헥타르", "밤", "자",
)  # fmt: skip
_COUNTER = "|".join(sorted(COUNTERS, key=len, reverse=True))
_SINO_ONLY = "원", "년", "월", "일", "초", "도", "층", "퍼센트", "위", "호", "회", "세기", "학년"
_NATIVE_COUNTER = "|".join(sorted({*COUNTERS} - {*_SINO_ONLY}, key=len, reverse=True))
_NUMERAL = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_PART = rf"(?:{_NUMERAL})\s?(?:[천백십]?(?:만(?!큼)|[억조])|[천백십](?![가-힣]))"
_DIGITAL = re.compile(
    rf"(?<![\d.,])(?:(?:{_PART})(?:\s?(?:{_PART}))*(?:\s?(?:{_NUMERAL})(?![\d]))?|{_NUMERAL})(?![,.]?\d)"
)
_SINO_LETTERS = "영공일이삼사오육륙칠팔구십백천만억조"
_SINO = re.compile(
    rf"(?<![가-힣])((?:[{_SINO_LETTERS}]+\s?)*[{_SINO_LETTERS}]+?)(?:\s?({_COUNTER})|(?![가-힣]))"
)
_NATIVE_WORD = "|".join(sorted([*_NATIVE], key=len, reverse=True))
_TENS_WORD = "|".join(sorted(_TENS, key=len, reverse=True))
# From ten on, words can be nothing else, whatever is counted.
_NATIVES = re.compile(
    rf"(?<![가-힣])((?:{_TENS_WORD})(?:\s?(?:{_NATIVE_WORD}))|"
    rf"(?:(?:{_TENS_WORD})|(?:{_NATIVE_WORD}))(?=\s?(?:{_NATIVE_COUNTER})))"
)
_OTHER = re.compile(rf"(?<![가-힣])(?:{'|'.join(_OTHERS)})")
_FOR_ONE = re.compile(r"(?<=[\w%])당(?![가-힣])")  # 그램당 = of one gram


def of(text: str) -> Iterator[tuple[Decimal, int, int, bool]]:
    """(value, start, end, whether it is certain)."""
    taken: set[int] = set()
    for match in _DIGITAL.finditer(text):
        taken |= set(range(*match.span()))
        yield _digital(match[0]), *match.span(), True
    for match in _SINO.finditer(text):
        if match.start() - 1 in taken or match.start() in taken:  # the scale of digits
            continue
        letters = re.sub(r"\s", "", match[1])
        value, is_counted = _sino(letters), bool(match[2])
        is_alone = len(letters) == 1 and match[0][1:2].isspace()
        if is_alone and not (match[2] and _has_scale(letters)):  # 이 is "this", too, 일 "work"
            continue
        if value is None and letters.endswith("일"):  # days
            value, is_counted = _sino(letters[:-1]), True
        if value is not None and (is_counted or len(letters) > 1):
            # Short words are more often something else.
            is_certain = len(letters) > 2 and is_counted and _has_scale(letters)
            yield Decimal(value), match.start(), match.end(1), is_certain
    for match in _NATIVES.finditer(text):
        value = _native(match[1])
        yield Decimal(value), *match.span(1), value > 10
    for match in _FOR_ONE.finditer(text):
        yield Decimal(1), *match.span(), False
    for match in _OTHER.finditer(text):
        yield Decimal(_OTHERS[match[0]]), *match.span(), False


def _digital(text: str) -> Decimal:
    total, group, number = Decimal(0), Decimal(0), ""
    for letter in re.sub(r"[\s,]", "", text):
        if letter in _SMALL:
            group, number = group + Decimal(number or 1) * _SMALL[letter], ""
        elif letter in _LARGE:
            total += (group + Decimal(number or (0 if group else 1))) * _LARGE[letter]
            group, number = Decimal(0), ""
        else:
            number += letter
    return total + group + Decimal(number or 0)


def _has_scale(letters: str) -> bool:
    return any(letter in _SMALL or letter in _LARGE for letter in letters)


def _sino(letters: str) -> int | None:
    """The value; None where the letters are no number."""
    if not _has_scale(letters):  # read digit by digit: 이공이공
        return int("".join(str(_DIGITS[one]) for one in letters))
    total, group, digit = 0, 0, None
    for letter in letters:
        if letter in _DIGITS:
            if digit is not None:
                return None
            digit = _DIGITS[letter]
        elif letter in _SMALL:
            group, digit = group + (1 if digit is None else digit) * _SMALL[letter], None
        else:
            found = group + (digit or 0)
            total, group, digit = total + (found or 1) * _LARGE[letter], 0, None
    return total + group + (digit or 0)


def _native(text: str) -> int:
    text = re.sub(r"\s", "", text)
    tens = next((one for one in sorted(_TENS, key=len, reverse=True) if text.startswith(one)), "")
    return _TENS.get(tens, 0) + _NATIVE.get(text[len(tens) :], 0)
