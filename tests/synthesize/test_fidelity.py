"""The checks of a rewrite find planted mistakes and let faithful rewrites pass."""

from decimal import Decimal

import planted
import pytest

from kanana_jax.synthesize import fidelity
from kanana_jax.synthesize.fidelity import maths, names, numbers, sums, units

LANGUAGES = ("en", "ko")
NUMBERS = {
    "en": {
        "12,500 trees": "12500", "twelve thousand five hundred": "12500", "3.4 billion": "3.4e9",
        "twenty-five": "25", "two hundred and six": "206", "a hundred": "100", "the 1990s": "1990",
        "3rd of 40": "3 40", "version 3.10.2": "", "one million two thousand": "1002000",
        "1. Mix\n2. Knead 10 times": "10", "`x = 5`": "", "half of nine": "0.5 9", "5k": "5000",
    },
    "ko": {
        "만 이천오백 명": "12500", "12만 5천 원": "125000", "3조 4천억 원": "3.4e12",
        "2,300부": "2300", "스물세 살": "23", "열한 시간": "11", "이공이공년": "2020",
        "삼백육십오 일": "365", "이것은 사과": "", "1만큼": "1", "6만 5천 대": "65000",
        "사흘": "3", "100만 부": "1000000", "천이백 원": "1200",
    },
}  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_have_their_values(language):
    for text, wanted in NUMBERS[language].items():
        found = [one.value for one in numbers.of(text, language)]
        assert found == [Decimal(one).normalize() for one in wanted.split()], text


def test_only_digits_are_read_of_other_languages():
    assert [one.value for one in numbers.of("zwei, 3 und 4,000", "de")] == [3, 4000]


@pytest.mark.parametrize(
    ("text", "language", "wanted"),
    [
        ("5 km", "en", "kilometre"), ("five kilometres", "en", "kilometre"), ("$5", "en", "dollar"),
        ("12%", "en", "percent"), ("5 megs", "en", None), ("5 melons", "en", None),
        ("5 킬로미터를", "ko", "kilometre"), ("다섯 주쯤", "ko", "week"),
        ("40분간", "ko", "minute"),
        ("12분의 1", "ko", None), ("5달러", "ko", "dollar"), ("230도", "ko", "degree"),
    ],
)  # fmt: skip
def test_units_have_one_name(text, language, wanted):
    assert units.of(text, numbers.of(text, language)[0]) == wanted


def test_names_are_capitals_inside_sentences_and_no_headings():
    text = "# Some Big Heading\nFarmers near Oslo met Ann Lee. NASA's man came in May 2020."
    assert names.of(text, "en") == {"oslo", "ann", "lee", "nasa"}
    assert names.months(text, "en") == {5} == names.months("2020-05-17", "en")
    assert names.months("They may march on.", "en") == set()


@pytest.mark.long
def test_korean_names_are_proper_nouns_and_titles():
    text = "김민수 씨는 한라산과 아르덴에서 '별 노래'를 불렀다. 이야기를 모르는 고양이도 있었다."
    assert names.of(text, "ko") == {"김민수", "한라산", "아르덴", "별 노래"}
    assert names.months("삼월과 12월", "ko") == {3, 12}
    assert names.months("십일월에", "ko") == {11}


def test_the_last_of_names_that_stand_together_stays():
    source = "강원도 속초에서 다산 정약용의 책을 읽었다."
    assert names.groups(source, "ko") >= {("강원도", "속초")}

    def missing(rewrite):
        found = fidelity.check(source, rewrite, "ko")
        return [one.detail for one in found if one.kind == "name missing"]

    assert missing("속초에서 정약용이 쓴 책을 읽었다고 한다.") == []
    assert missing("강원도에서 정약용이 쓴 책을 읽었다고 한다.") == ["강원도 속초"]


def test_rates_and_words_for_one_are_numbers():
    assert [str(one.value) for one in numbers.of("그램당 5원", "ko")] == ["1", "5"]
    assert units.of("초속 340미터", numbers.of("초속 340미터", "ko")[0]) == "second"
    assert [one.is_certain for one in numbers.of("열두 글자, 세 개", "ko")] == [True, False]
    assert numbers.of("세일합니다", "ko") == []


def test_code_is_kept_to_the_letter():
    assert names.code("`a b`, parse_date, run() and --max-len") == {
        "a b", "parse_date", "run()", "--max-len"
    }  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_faithful_rewrites_pass(language):
    pairs = planted.faithful(language)
    alarms = [
        (rewrite, found)
        for source, rewrite in pairs
        if (found := fidelity.check(source, rewrite, language))
    ]
    assert len(pairs) >= 20
    assert len(alarms) <= 0.02 * len(pairs), alarms


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("mistake", planted.PLANTED)
def test_planted_mistakes_are_found(mistake, language):
    cases = list(planted.PLANTED[mistake](language))
    missed = [one.what for one in cases if not fidelity.check(one.source, one.rewrite, language)]
    assert len(cases) >= 15
    assert len(missed) <= 0.05 * len(cases), missed


EN, KO = (planted.faithful(language)[0] for language in LANGUAGES)


@pytest.mark.parametrize(
    ("kind", "source", "rewrite", "language"),
    [
        ("number missing", "It has 40 rooms.", "It has fifty rooms.", "en"),
        ("number added", "It has 40 rooms.", "It has 40 rooms on 12 floors.", "en"),
        ("unit changed", "It is 40 km long.", "It has 40 miles of length.", "en"),
        ("month missing", "It was in May 1990.", "It was in June 1990.", "en"),
        ("name missing", "We met in Oslo.", "We met in Bergen.", "en"),
        ("name added", "We met in the city.", "We met in Bergen.", "en"),
        ("code missing", "Call `run()` first.", "Call `start()` first.", "en"),
        ("sentence missing", *EN[:1], EN[1].rpartition("In 1986")[0], "en"),
        ("sentence missing", *KO[:1], KO[1].rpartition("등대지기")[0], "ko"),
        ("length", *EN[:1], EN[1][:60], "en"),
        ("length", *EN[:1], EN[1] * 4, "en"),
        ("language", *EN[:1], KO[1], "en"),
        ("copied", *EN[:1], EN[0], "en"),
        ("copied", *KO[:1], KO[0], "ko"),
        ("repeated", *EN[:1], EN[1] + " " + EN[1], "en"),
    ],
)
def test_each_problem_has_its_kind(kind, source, rewrite, language):
    assert kind in [one.kind for one in fidelity.check(source, rewrite, language)]


def test_every_kind_is_tested():
    marks = test_each_problem_has_its_kind.pytestmark
    elsewhere = {"answer changed", "sum wrong", "judged"}
    assert {case[0] for case in marks[0].args[1]} | elsewhere == set(fidelity.KINDS)


@pytest.mark.parametrize(
    ("ours", "theirs", "language", "wanted"),
    [
        (r"So x is \boxed{12}.", "We see: the answer is 12.", "en", True),
        (r"\boxed{\frac{1}{2}}", "Answer: 0.5", "en", True),
        (r"\boxed{\frac{1}{2}}", "Answer: 1/3", "en", False),
        (r"\boxed{x^2+1}", r"\boxed{ x^2 + 1 }", "en", True),
        (r"\boxed{x^2+1}", r"\boxed{x^2-1}", "en", False),
        ("It costs 1,200 won.", "Answer: 1200 won", "en", True),
        ("5 + 7 makes 12.", "First 12, then 13.", "en", False),
        ("답은 12개", "따라서 답: 12", "ko", True),
        ("모두 열두 개이다.", "답: 13", "ko", False),
        (r"\boxed{12}", "There is none.", "en", False),
        (r"\boxed{\frac{3}{4} + 1}", r"\boxed{1.75}", "en", True),
        (r"\boxed{3 \cdot 4}", "Answer: 3 * 5", "en", False),
    ],
)
def test_solutions_agree_where_their_final_answers_do(ours, theirs, language, wanted):
    assert maths.agree(ours, theirs, language) == wanted


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("12 * 3 + 1 = 37 = 74 / 2 and (2 + 3) * 4 = 20, 7 - -2 = 9.", []),
        ("So 3 + 4 = 8, and 2 + 2 = 5.", ["3 + 4 = 8", "2 + 2 = 5"]),
        ("2 + 2 = 4 = 9 - 4", ["4 = 9 - 4"]),
        (r"$12 \times 4 = 49$, \frac{1}{2} + \frac{1}{3} = \frac{5}{6}", ["12 * 4 = 49"]),
        ("2^{10} = 1000", ["2^(10) = 1000"]),
        ("10 / 3 = 3.33, 10 / 3 = 3.34", ["10 / 3 = 3.34"]),
        ("$1,200 + $300 = $1,500 and 20% * 50 = 11", ["20/100 * 50 = 11"]),
        ("f(3) = 9 + 1, x + 3 + 4 = 9, 2 + 3 = 5x, 2 + 3 = 1 + x, 5x = 4 + 4", []),
        ("12 pens + 3 pens = 15 pens; in 2020 3 + 4 = 9; 1 / 0 = 5; 9**9**9 = 1", []),
    ],
)
def test_sums_are_computed_where_they_are_sums(text, wrong):
    assert sums.wrong(text) == wrong


def test_a_wrong_sum_is_a_problem_unless_the_source_has_it():
    source, right = "3 + 4 = 7, so 7 * 2 = 14. Answer: 14", "7 * 2 = 14. Answer: 14"
    wrong = "3 + 4 = 8, so 7 * 2 = 14. Answer: 14"
    assert fidelity.check_answer(source, right, "en") == []
    assert fidelity.check_answer(source, wrong, "en") == [("sum wrong", "3 + 4 = 8")]
    assert fidelity.check_answer(wrong, wrong, "en") == []
