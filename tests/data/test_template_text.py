"""Documents put together from words: what they are made of, and that their grammar is right."""

import json
import re
import string

import pytest

from kanana_jax import korean
from kanana_jax.data import template_text

LANGUAGES = tuple(template_text.PROSE)


@pytest.mark.parametrize("language", LANGUAGES)
def test_documents_are_a_function_of_seed_and_index(language):
    made = list(template_text.documents(language, seed=3, count=300))
    assert made[7] == template_text.document(language, 3, 7)
    assert len({*made, *template_text.documents(language, seed=4, count=300)}) == 600
    sizes = [len(text.encode()) for text in made]
    assert template_text.SHORTEST <= min(sizes) < max(sizes) <= template_text.LONGEST
    assert max(sizes) - min(sizes) > 250


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_pattern_can_be_filled_and_every_word_is_used(language):
    prose = template_text.PROSE[language]
    slots = {
        (name, taken_on)
        for pattern in prose.patterns
        for _, name, taken_on, _ in string.Formatter().parse(pattern)
        if name
    }
    known = {*prose.words, *template_text._SAME_LIST}
    assert {name for name, _ in slots} == known
    assert sum(map(len, prose.words.values())) > 200
    for name, taken_on in slots:
        for word in prose.words[template_text._SAME_LIST.get(name, name)]:
            assert word == word.strip() and word
            assert word in format(template_text._Word(word), taken_on or "")


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_sentence_can_make_a_document_too_long(language):
    prose = template_text.PROSE[language]
    longest = {
        slot: max(words, key=lambda word: len(word.encode())) for slot, words in prose.words.items()
    }
    longest |= {name: longest[of] for name, of in template_text._SAME_LIST.items()}
    words = {slot: template_text._Word(word) for slot, word in longest.items()}
    sizes = [len(pattern.format_map(words).encode()) for pattern in prose.patterns]
    assert 60 < max(sizes) < 95  # below 100 with a blank before it and particles a few bytes longer


def test_korean_particles_fit_the_words_before_them():
    """Read off the text: behind each word of the cast stands the form that it asks for."""
    words = template_text.PROSE["ko"].words
    nouns = [*words["who"], *words["what"]]
    text = " ".join(template_text.documents("ko", seed=0, count=400))
    forms = "은|는|이|가|을|를|과|와"
    found = re.findall(
        rf"(?<![가-힣])({'|'.join(sorted(nouns, key=len)[::-1])})({forms})(?= )", text
    )
    assert len(found) > 1000
    with_final = {form for word, form in found if _ends_in_consonant(word)}
    without = {form for word, form in found if not _ends_in_consonant(word)}
    assert (with_final, without) == ({*"은이을과"}, {*"는가를와"})


def _ends_in_consonant(word):
    return korean.with_particle(word, "은").endswith("은")


def test_english_articles_fit_the_words_behind_them():
    text = " ".join(template_text.documents("en", seed=0, count=400)).lower()
    found = re.findall(r"\b(an?) (\w)", text)
    assert {article for article, _ in found} == {"a", "an"}
    assert {letter in "aeiou" for article, letter in found if article == "an"} == {True}
    assert {letter in "aeiou" for article, letter in found if article == "a"} == {False}


def test_a_document_keeps_to_few_people_and_places():
    for index in range(50):
        text = template_text.document("en", 1, index)
        for slot in ("who", "where"):
            words = template_text.PROSE["en"].words[slot]
            found = [word for word in words if re.search(rf"\b{word}\b", text, re.IGNORECASE)]
            assert len(found) <= 2, text


def test_documents_are_written(tmp_path):
    path = tmp_path / "korean.jsonl"
    num_bytes = template_text.write(path, "ko", seed=2, count=5)
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert texts == list(template_text.documents("ko", seed=2, count=5))
    assert num_bytes == sum(len(text.encode()) for text in texts)
