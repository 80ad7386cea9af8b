"""Whether a text satisfies a constraint.

    constraint = {"kind": ..., and what the kind needs}

    size    words, sentences, lines (with "count"), json (with "keys")
    others  contains, lacks (with "word"), ends (with "mark"), lower_case, language, polite

A word is what blanks separate, in Korean an eojeol. A sentence ends in . ! or ? before a blank or
the end. In Korean its last syllable before the mark is Hangul, as verbs are; a polite one ends in
요.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

Constraint = dict[str, Any]

SIZES = ("words", "sentences", "lines", "json")
_MOST_WORDS = 12  # of a sentence or a line: a longer one satisfies no size
_MOST_CHARACTERS = 2000


def holds(text: str, constraint: Constraint, language: str) -> bool:
    """For a text that should be in `language`; takes any text without an error."""
    text = text.strip()
    if not text or len(text) > _MOST_CHARACTERS:
        return False
    match constraint:
        case {"kind": "words", "count": count}:
            return len(words(text)) == count
        case {"kind": "sentences", "count": count}:
            found = sentences(text, language)
            return len(found) == count and all(map(_is_short, found))
        case {"kind": "lines", "count": count}:
            found = text.split("\n")
            return len(found) == count and all(one.strip() and _is_short(one) for one in found)
        case {"kind": "json", "keys": keys}:
            return _is_object(text, keys)
        case {"kind": "contains", "word": word}:
            return word in bare_words(text)
        case {"kind": "lacks", "word": word}:
            return word.lower() not in text.lower()
        case {"kind": "ends", "mark": mark}:
            return text.endswith(mark)
        case {"kind": "lower_case"}:
            return text == text.lower() and any(map(str.isalpha, text))
        case {"kind": "language"}:
            return _is_in(text, language)
        case {"kind": "polite"}:
            found = sentences(text, "ko")
            return bool(found) and all(one.rstrip(".!?").endswith("요") for one in found)
    raise ValueError(f"no constraint {constraint}")


def words(text: str) -> list[str]:
    """Those that have a letter or a digit."""
    return [word for word in text.split() if any(map(str.isalnum, word))]


def bare_words(text: str) -> list[str]:
    """Words without marks around them, in lower case."""
    return [re.sub(r"^\W+|\W+$", "", word).lower() for word in words(text)]


def sentences(text: str, language: str) -> list[str]:
    """The sentences; empty if any part of the text is no sentence."""
    found = re.split(r"(?<=[.!?])\s+", text.strip())
    whole = r".*[\uac00-\ud7a3][.!?]" if language == "ko" else r".*\w[.!?]"
    return found if all(re.fullmatch(whole, one) for one in found) else []


def named(text: str, topics: Sequence[str], language: str) -> list[str]:
    """The topics that occur in a text as words; in Korean also with particles after them."""
    found = set(bare_words(text[:_MOST_CHARACTERS]))
    if language == "ko":
        return [topic for topic in topics if any(word.startswith(topic) for word in found)]
    return [topic for topic in topics if topic in found]


def _is_short(text: str) -> bool:
    return len(text.split()) <= _MOST_WORDS


def _is_object(text: str, keys: list[str]) -> bool:
    """Whether it is an object with exactly these keys, each with a short text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict) or sorted(value) != sorted(keys):
        return False
    return all(isinstance(one, str) and one.strip() and _is_short(one) for one in value.values())


def _is_in(text: str, language: str) -> bool:
    """Whether it is written in the letters of the language."""
    letters = [one for one in text if one.isalpha()]
    num_hangul = sum("\uac00" <= one <= "\ud7a3" for one in letters)
    if language == "en":
        return bool(letters) and num_hangul == 0
    return num_hangul > 0.8 * len(letters)
