"""Names in a text: capitals inside sentences, Korean proper nouns, quoted titles, code.

Hangul has no capitals. There, names are words in Latin letters, and what Kiwi, a morphological
analyser, takes for proper nouns. In both languages it stays a guess what a name is.
"""

import re

from kanana_jax.synthesize import chunks
from kanana_jax.synthesize.fidelity import korean_words
from kanana_jax.synthesize.fidelity import words as lists

_CODE = re.compile(r"`([^`\n]+)`|(\b[A-Za-z]+_\w+|\b\w+\(\)|(?<!\S)--[a-z][\w-]+)")
_CAPITAL = re.compile(r"(?<![\w'])[A-Z][A-Za-z\u00c0-\u024f]*(?:-[A-Z][a-z]+)*(?:'s)?(?![\w])")
# Capitals that name nothing of the text's own; months are told apart below.
_COMMON = frozenset(
    lists.listed("""
    i a an the this that these those it its he she they we you his her their our my your in on
    at by for from to of and or but so as if when while where what which who why how is are was
    were there here not no yes all some many most each every both after before during since
    until although because however therefore question answer step steps note summary table
    overview key facts fact mr mrs ms dr prof q monday tuesday wednesday thursday friday
    saturday sunday internet earth sun moon english
""")
)
MONTHS = {
    name: number
    for number, name in enumerate(
        lists.listed("""
    january february march april may june july august september october november december
"""), start=1,
    )
}  # fmt: skip
_MONTH = re.compile(
    rf"\b({'|'.join(MONTHS)}|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b\.?", re.IGNORECASE
)
_ISO_DATE = re.compile(r"\b\d{4}-(\d{2})-\d{2}\b")
_KOREAN_MONTH = re.compile(r"(?<!\d)(\d{1,2})\s?월")
_KOREAN_MONTH_WORDS = {"일월": 1, "이월": 2, "삼월": 3, "사월": 4, "오월": 5, "유월": 6, "칠월": 7,
                       "팔월": 8, "구월": 9, "시월": 10, "십일월": 11, "십이월": 12}  # fmt: skip
_KOREAN_MONTH_WORD = re.compile(rf"(?<![가-힣])({'|'.join(_KOREAN_MONTH_WORDS)})")
_QUOTED = re.compile(
    "['\u2018\u300a\u300c<\"\u201c]([^'\"<>\n]{2,30}?)['\u2019\u300b\u300d>\"\u201d]"
)
# What follows a number directly is a unit.
_BEHIND_NUMBERS = "SN", "NR"
_LATIN_IN_HANGUL = re.compile(r"(?<![A-Za-z\d])[A-Z][A-Za-z]+(?:-\d+)?")


def code(text: str) -> set[str]:
    """Spans of code, and words that can be nothing else."""
    return {match[1] or match[2] for match in _CODE.finditer(text)}


def months(text: str, language: str) -> set[int]:
    """The months that are named. "May" and "March" count where a number is next to them."""
    found = {int(match[1]) for match in _ISO_DATE.finditer(text)}
    if language == "ko":
        found |= {int(match[1]) for match in _KOREAN_MONTH.finditer(text)}
        found |= {_KOREAN_MONTH_WORDS[word] for word in _KOREAN_MONTH_WORD.findall(text)}
        return {one for one in found if 1 <= one <= 12}
    for match in _MONTH.finditer(text):
        word = match[1].lower()
        around = text[max(match.start() - 5, 0) : match.start()] + text[match.end() :][:6]
        if word not in ("may", "march", "mar", "dec", "sep") or re.search(r"\d", around):
            found.add(next(number for name, number in MONTHS.items() if name.startswith(word[:3])))
    return found


def of(text: str, language: str) -> set[str]:
    """In lower case."""
    return {name for group in groups(text, language) for name in group}


def groups(text: str, language: str) -> set[tuple[str, ...]]:
    """Names that stand together, in lower case; English ones stand alone.

    A rewrite may leave out what stands before the last, an epithet or a larger place.
    """
    text = _CODE.sub(" ", text)
    if language == "ko":
        return _korean(text)
    return {(name,) for name in _latin(text)}


def _latin(text: str) -> set[str]:
    found = set()
    for sentence in chunks.sentences(text):
        if _is_heading(sentence):
            continue
        begin = re.search(r"\w", sentence)
        words = list(_CAPITAL.finditer(sentence))
        for place, match in enumerate(words):
            word = match[0].removesuffix("'s")
            is_first = (
                (bool(begin) and match.start() == begin.start())
                or bool(re.search(r"[:\"\u201c|*(\n-] ?\**$", sentence[: match.start()]))
            )  # fmt: skip
            follows = words[place + 1 : place + 2]
            leads_on = bool(follows) and follows[0].start() == match.end() + 1
            if is_first and not (leads_on or word.isupper() or word[1:] != word[1:].lower()):
                continue
            if word.lower() not in _COMMON and word.lower() not in MONTHS and len(word) > 1:
                found.add(word.lower())
    return found


def _is_heading(sentence: str) -> bool:
    """A line of words that mostly have capitals, without an end."""
    line = sentence.strip(" #*\n")
    words = re.findall(r"[A-Za-z']{4,}", line)
    return line[-1:] not in '.!?"' and sum(word[0].isupper() for word in words) * 2 > len(words)


def _korean(text: str) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = {(match[1],) for match in _QUOTED.finditer(text)}
    found |= {(match[0].lower(),) for match in _LATIN_IN_HANGUL.finditer(text)}
    group: list[str] = []
    end, before = -1, ""
    for token in korean_words.tokens(text):
        is_name = token.tag == "NNP" and before not in _BEHIND_NUMBERS
        gap = text[end : token.start] if end >= 0 else ""
        if group and not (is_name and gap in ("", " ")):
            found.add(tuple(group))
            group = []
        if is_name and group and not gap:  # a surname and a given name
            group[-1] += token.form
        elif is_name:
            group.append(token.form)
        end, before = token.start + token.len, token.tag
    found.add(tuple(group))
    kept = (tuple(name for name in names if len(name) > 1) for names in found)
    return {names for names in kept if names}
