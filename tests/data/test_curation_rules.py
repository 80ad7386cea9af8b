"""Normal forms, languages and heuristics."""

import importlib.util
import random

import curated
import numpy as np
import pytest

from kanana_jax.config import ConfigError
from kanana_jax.data.curate import heuristics, language, measures, normalise
from kanana_jax.data.curate.document import Document, Dropped

HANGUL = "\ud55c\uad6d\uc5b4 \ubb38\uc11c\ub97c \uc815\ub9ac\ud55c\ub2e4."
JAPANESE = "\u65e5\u672c\u8a9e\u306e\u6587\u66f8\u3092\u6574\u7406\u3059\u308b\u3002"
CHINESE = "\u6574\u7406\u4e2d\u6587\u6587\u4ef6\u5e76\u5220\u9664\u91cd\u590d\u3002"
THAI = "\u0e08\u0e31\u0e14\u0e40\u0e01\u0e47\u0e1a\u0e40\u0e2d\u0e01\u0e2a\u0e32\u0e23"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("e\u0301 \u1112\u1161\u11ab", "\u00e9 \ud55c"),
        ("\ufeffa\u200bb\x00\u00ad", "ab"),
        ("a  \u3000\n\n\n\nb\t\n", "a\n\nb"),
        ("  indented\tkept", "  indented\tkept"),
    ],
)
def test_a_text_has_one_normal_form(text, wanted):
    assert normalise.normal(text) == wanted
    assert normalise.normal(wanted) == wanted


def test_what_is_blank_is_dropped():
    (verdict,) = normalise.stage().apply(curated.documents([" \u200b\n"]), {}, None)
    assert verdict == Dropped("empty")


def test_broken_encodings_are_mended_where_ftfy_is_installed():
    pytest.importorskip("ftfy")
    broken = "sch\u00c3\u00b6n und gr\u00c3\u00bcn"
    assert normalise.normal(broken, mends=True) == "sch\u00f6n und gr\u00fcn"
    assert normalise.normal(broken) == broken


def _no_model(text):
    raise AssertionError(text)


def test_scripts_of_their_own_need_no_model():
    texts = [HANGUL, JAPANESE, CHINESE, THAI, f"{HANGUL} Python API {HANGUL}", "12 34", "abc"]
    found = [name for name, _ in language.identify(texts, lambda text: ("en", 1.0))]
    assert found == ["ko", "ja", "zh", "th", "ko", "", ""]
    assert [one for one, _ in language.identify(texts[:5], _no_model)] == found[:5]


def test_documents_of_other_languages_and_unsure_ones_are_dropped():
    texts = [HANGUL, JAPANESE, "12 34"]
    verdicts = language.stage(["ko"], 0.5).apply(curated.documents(texts), {}, None)
    assert isinstance(verdicts[0], Document) and verdicts[0].language == "ko"
    assert verdicts[1:] == [Dropped("another language", "ja"), Dropped("too few letters")]


def test_latin_text_is_told_by_the_model():
    pytest.importorskip("py3langid")
    texts = [
        "The stage keeps documents that are written in one of the wanted languages.",
        "Die Stufe beh\u00e4lt Dokumente, die in einer der Sprachen geschrieben sind.",
        "L'\u00e9tape conserve les documents r\u00e9dig\u00e9s dans une des langues voulues.",
        "\u042d\u0442\u0430\u043f \u0445\u0440\u0430\u043d\u0438\u0442 "
        "\u0434\u043e\u043a\u0443\u043c\u0435\u043d\u0442\u044b \u043d\u0430 "
        "\u0440\u0443\u0441\u0441\u043a\u043e\u043c.",
    ]
    verdicts = language.stage(["en", "de", "ru"], 0.5).apply(curated.documents(texts), {}, None)
    assert [getattr(one, "language", one) for one in verdicts] == [
        "en", "de", Dropped("another language", "fr"), "ru"
    ]  # fmt: skip


def test_languages_that_cannot_be_told_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"--languages must be of ko,ja.*; got 'tlh'"):
        language.stage(["ko", "tlh"], 0.5)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--languages has en.*kanana_jax\[curate\]"):
        language.stage(["en", "ko"], 0.5)
    assert language.stage(["ko", "th"], 0.5).settings["py3langid"] is None


def test_measures_are_those_counted_by_hand():
    text = "Words, 12 words.\n- item\n\n- item\nwait...\n"
    found = {name: value.tolist() for name, value in measures.of([text, ""], [False] * 2).items()}
    assert found.pop("compressed")[0] > 0
    solid = len("Words,12words.-item-itemwait...")
    wanted = {
        "characters": len(text), "words": 8, "word length": solid / 8, "letters": 22 / solid,
        "digits": 2 / solid, "symbols": 0, "blanks": (len(text) - solid) / len(text),
        "broken characters": 0, "closed lines": 2 / 4, "short lines": 1.0, "bullets": 2 / 4,
        "ellipses": 1 / 4, "repeated lines": 6 / 35,
    }  # fmt: skip
    assert {name: values[0] for name, values in found.items()} == pytest.approx(wanted)
    assert all(np.isfinite(values[1]) for values in found.values())


def _kana(rng, size):
    return "".join(chr(rng.randint(0x3041, 0x3093)) for _ in range(size))


GOOD = {
    "en": curated.prose("en", 1)[0] + "\n" + curated.prose("en", 2)[1],
    "ko": curated.prose("ko", 1)[0] + "\n" + curated.prose("ko", 2)[1],
    "ja": "\n".join(_kana(rng, 24) + "\u3002" for rng in map(random.Random, range(8))),
}


def _reasons(texts, name, most_dropped=1.0):
    stage = heuristics.stage(most_dropped)
    verdicts = curated.decide_and_apply(stage, [curated.documents(texts, name)])[0]
    return [one.reason if isinstance(one, Dropped) else "" for one in verdicts]


@pytest.mark.parametrize("name", GOOD)
def test_prose_passes_all_rules(name):
    assert _reasons([GOOD[name]], name) == [""]


@pytest.mark.parametrize(
    ("reason", "spoil"),
    [
        ("many broken characters", lambda text: text.replace(text[5], "\ufffd")),
        ("few characters", lambda text: text[:30]),
        ("few letters", lambda text: text + "1!" * (len(text) // 3)),
        ("many digits", lambda text: text + "1" * (len(text) // 4)),
        ("many symbols", lambda text: text + "+" * (len(text) // 5)),
        ("many blanks", lambda text: text.replace(text[3], text[3] + " " * 12)),
        ("few closed lines", lambda text: text.replace(".", "").replace("\u3002", "")),
        ("many short lines", lambda text: text + "\nok." * 30),
        ("many bullets", lambda text: "\n".join("- " + line for line in text.split("\n"))),
        ("many ellipses", lambda text: "\n".join(line + "..." for line in text.split("\n"))),
        ("many repeated lines", lambda text: text + "\n" + text),
        ("few compressed", lambda text: text.replace("\n", " ").replace(".", "")[:60] * 60 + "."),
    ],
)
@pytest.mark.parametrize("name", GOOD)
def test_each_rule_drops_what_it_is_for(reason, spoil, name):
    assert _reasons([spoil(GOOD[name])], name) == [reason]


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("few words", "extraordinarily " * 8 + "different " * 10 + "from all others."),
        ("few word length", "a b is it so we do " * 15 + "."),
        ("many word length", "incomprehensibilities " * 10 + "characteristically " * 40 + "."),
    ],
)
def test_rules_on_words_are_for_languages_with_spaces(reason, text):
    assert reason in _reasons([text], "en")
    assert reason not in _reasons([text], "ja")


def test_a_rule_drops_no_more_than_its_share_of_a_language():
    english, korean = curated.prose("en", 200), curated.prose("ko", 200)
    for place in range(0, 200, 5):  # a fifth is below the anchor, each longer than the last
        english[place] = english[place][: 100 + place // 5]
    assert _reasons(english, "en").count("few characters") == 40
    assert 8 <= _reasons(english, "en", 0.05).count("few characters") <= 10
    stage = heuristics.stage(0.05)
    shards = [curated.documents(english, "en"), curated.documents(korean, "ko")]
    told = stage.decide([stage.survey(one) for one in shards]).told["limits"]
    assert told["en"]["few characters"]["anchor"] == 200
    assert told["en"]["few characters"]["limit"] < 200 == 2 * told["ko"]["few characters"]["limit"]
