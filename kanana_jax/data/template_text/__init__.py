"""Template text: short English and Korean prose put together from words and sentence patterns.

It is a stand-in where no real text is at hand, Korean above all. It teaches a small model spelling,
words and grammar but no knowledge, and results on it say nothing about real text.

    document = sentences about two people, two places and three things, 200 to 600 bytes

A slot of a pattern names a list of words. After a colon comes what its word takes on: a Korean
particle, {who:은}, or an English article, {what:a}.
"""

import pathlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from kanana_jax import korean
from kanana_jax.data import jsonl
from kanana_jax.data.template_text import english_words, korean_words

Language = Literal["en", "ko"]
SHORTEST, LONGEST = 200, 600  # bytes of a document

# Slots that a document fills with few words, again and again.
_CAST = {"who": 2, "where": 2, "what": 3}
_SAME_LIST = {"other": "who", "there": "where"}


class Prose(NamedTuple):
    """The material of a language."""

    words: Mapping[str, Sequence[str]]
    patterns: Sequence[str]


PROSE: dict[Language, Prose] = {
    "en": Prose(english_words.WORDS, english_words.PATTERNS),
    "ko": Prose(korean_words.WORDS, korean_words.PATTERNS),
}


class _Word(str):
    """A word that a pattern can ask for with a particle or an article."""

    def __format__(self, taken_on: str) -> str:
        if not taken_on:
            return str(self)
        if taken_on == "a":
            return f"{'an' if self[0] in 'aeiou' else 'a'} {self}"
        return korean.with_particle(self, taken_on)  # pyright: ignore[reportArgumentType]


def document(language: Language, seed: int, index: int) -> str:
    """Document `index` of a seed."""
    rng = random.Random(f"{language} {seed} {index}")
    prose = PROSE[language]
    cast = {slot: rng.sample(prose.words[slot], size) for slot, size in _CAST.items()}
    wanted = rng.randint(SHORTEST, LONGEST - 100)  # sentences are shorter than these 100
    text = _sentence(prose, cast, rng)
    while len(text.encode()) < wanted:
        text += " " + _sentence(prose, cast, rng)
    return text


def documents(language: Language, *, seed: int, count: int) -> Iterator[str]:
    """The first documents of a seed."""
    return (document(language, seed, index) for index in range(count))


def write(path: pathlib.Path, language: Language, *, seed: int, count: int) -> int:
    """Writes documents as JSON lines and returns their bytes, as `jsonl.write` does."""
    return jsonl.write(path, documents(language, seed=seed, count=count))


def _sentence(prose: Prose, cast: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    filled = {slot: _Word(rng.choice(words)) for slot, words in {**prose.words, **cast}.items()}
    for slot, of in _SAME_LIST.items():  # another one of the cast
        filled[slot] = next(_Word(word) for word in cast[of] if word != filled[of])
    sentence = rng.choice(prose.patterns).format_map(filled)
    return sentence[0].upper() + sentence[1:]
