"""Rewrites written by hand, and what is planted in them: one wrong thing in each."""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from kanana_jax.synthesize import chunks
from kanana_jax.synthesize.fidelity import words

_HERE = pathlib.Path(__file__).parent
# Listed by hand, not by the code under test. Each is replaced by the next one.
NAMES = {
    "en": words.listed("""
    Arden Maria Lopez Ja\u00e9n Denver ValueError Dana Whitfield Brazil Kessel Henrik Voss Lindholm
    Amara Nwosu Circulation Orel Tarn Bergamo Selene White Ford Orvan Judith Hale Leeds Harbour
    Elm Edmund Halley Skarholm Rosa Jimenez Valpara\u00edso Ghent
    Orleans AlreadyConnected Samuel Thorne Tom Barrow
"""),
    "ko": words.listed("""
    아르덴 김민수 밀양 한라산 ValueError 박서준 브라질 설악봉 조한결 강릉박물관 최은영 오렐 타른
    대구 셀레네 포드 오르반 한지우 대전 에드먼드 스카르섬 정현우
    통영 겐트 뉴올리언스 AlreadyConnected 송민호 배선호
    이순신 한산도 박지민 함부르크 갈릴레이 최민호 속초 김하늘 정약용 윤서연 이청준 불국사 고미자
    유카탄반도 퀴리 한라수목원 장영실 송지훈 히파소스 정선희 유네스코 오경수 고흐 레이캬비크 유관순
    한유진 하노이 윤동주 후쿠오카 손흥민 개경 임은주 백승호 소세키
"""),
}
# Units as rewrites write them, each with the one that takes its place.
UNITS = {
    "en": {
        "kilometres": "miles", "metres": "feet", "kilograms": "pounds", "grams": "ounces",
        "euros": "dollars", "degrees": "percent", "percent": "points", "hours": "days",
        "days": "weeks", "weeks": "months", "minutes": "hours", "litre": "gallon", "%": " points",
        "years": "months", "tonnes": "kilograms", "centimetres": "inches", "dollars": "euros",
        "millilitres": "litres",
    },
    "ko": {
        "킬로미터": "마일", "미터": "피트", "킬로그램": "톤", "그램": "킬로그램", "퍼센트": "명",
        "시간": "분", "일간": "주간", "일 동안": "주 동안", "분": "시간", "원": "달러",
        "달러": "원", "톤": "그램", "센티미터": "미터", "밀리리터": "리터", "년": "개월",
        "%": "명", "명": "킬로그램", "주": "년",
    },
}  # fmt: skip


class Case(NamedTuple):
    source: str
    rewrite: str
    what: str


def faithful(language: str) -> list[tuple[str, str]]:
    return [*aligned(language), *(_pairs("ko_more") if language == "ko" else ())]


def aligned(language: str) -> list[tuple[str, str]]:
    """The pairs whose rewrites say nothing twice, questions aside."""
    return _pairs(language)


def _pairs(name: str) -> list[tuple[str, str]]:
    lines = (_HERE / f"faithful_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [(one["source"], one["rewrite"]) for one in map(json.loads, lines)]


def wrong_numbers(language: str) -> Iterator[Case]:
    """Every number in digits of every rewrite, with its first digit changed."""
    for source, rewrite in faithful(language):
        for match in re.finditer(r"(?<![\w-])\d[\d,.]*", rewrite):
            if re.match(r"\d\. ", rewrite[match.start() :]):  # the mark of a step
                continue
            digit = str((int(match[0][0]) + 3) % 9 + 1)
            changed = rewrite[: match.start()] + digit + rewrite[match.start() + 1 :]
            yield Case(source, changed, match[0])


def wrong_units(language: str) -> Iterator[Case]:
    """Every known unit right behind a number in digits."""
    for source, rewrite in faithful(language):
        for unit, other in UNITS[language].items():
            for match in re.finditer(rf"(?<=\d) ?{unit}(?![a-z가-힣]|포인트)", rewrite):
                changed = rewrite[: match.start()] + match[0].replace(unit, other)
                yield Case(source, changed + rewrite[match.end() :], f"{unit} to {other}")


def wrong_names(language: str) -> Iterator[Case]:
    """Every name of the list that a rewrite has, another one in its place."""
    names = NAMES[language]
    for source, rewrite in faithful(language):
        for place, name in enumerate(names):
            other = names[(place + 1) % len(names)]
            if name in source and name in rewrite and other not in source:
                yield Case(source, rewrite.replace(name, other), f"{name} to {other}")


def dropped_sentences(language: str) -> Iterator[Case]:
    """Every sentence left out, but for short ones, headings and questions, which answers repeat."""
    for source, rewrite in aligned(language):
        parts = chunks.sentences(rewrite)
        for place, part in enumerate(parts):
            if len(part.strip()) > 12 and not re.match("Question|질문|#", part):
                yield Case(source, "".join(parts[:place] + parts[place + 1 :]), part.strip())


def added_facts(language: str) -> Iterator[Case]:
    more = {"en": " A study by Peter Quill in Norway counted 731 of them.",
            "ko": " 정수현 교수는 노르웨이에서 그것을 731개 찾았다."}  # fmt: skip
    for source, rewrite in faithful(language):
        yield Case(source, rewrite + more[language], "a sentence")


PLANTED = {
    "wrong number": wrong_numbers,
    "wrong unit": wrong_units,
    "wrong name": wrong_names,
    "dropped sentence": dropped_sentences,
    "added facts": added_facts,
}
