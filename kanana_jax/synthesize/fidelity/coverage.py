"""Which sentences of a source a rewrite lacks, and how much of the rewrite is copied or repeated.

    own(s) = content words and numbers of sentence s that no other sentence of the source has
    s is missing  <=>  own(s) has two or more, of which the rewrite has a share below `least`

Words are compared by their beginnings, in Korean by their stems, so that endings may differ, and
numbers by value. Copying and repetition are shares of shingles of eight words (sixteen characters
in Korean, Japanese, Chinese and Thai).
"""

import re
from collections import Counter

from kanana_jax.data.curate import shingles
from kanana_jax.synthesize import chunks
from kanana_jax.synthesize.fidelity import korean_words, numbers
from kanana_jax.synthesize.fidelity import words as lists

_WORD = re.compile(r"[^\W\d_]+")
_STEM = {"ko": 2, "ja": 2, "zh": 2, "th": 4}  # characters that two words share; others 5
_SHORTEST = {"ja": 2, "zh": 2, "th": 4}  # others 4: shorter words are mostly grammar
_FEWEST = 2  # words of its own that a sentence needs to be looked for
_STOP = frozenset(
    lists.listed("""
    about above after again also although among another because been before being below between
    both could does doing down during each even every from further have having here into itself
    just like made make many more most much must only other over same should since some still
    such than that their them then there these they this those through under until upon very
    were what when where which while will with within without would your later first known used
    using around once near well often usually instead today then made became called
""")
)
# Without endings, as analysers give them.
_KOREAN_STOP = frozenset(
    lists.listed("""
    하 되 있 없 같 이르 대하 위하 통하 따르 보 주 가지 때 때문 이후 지금 다시 모두 함께 가장 아주
    매우 더 또 그리고 그러나 하지만 그래서 또한 것 수 뒤 전 후 안 못 그것 이것
""")
)


def missing(source: str, rewrite: str, language: str, least: float) -> list[str]:
    """The sentences of the source that the rewrite lacks."""
    parts = [one.strip() for one in chunks.sentences(source)]
    words = [_content(one, language) | _values(one, language) for one in parts]
    owners = Counter(stem for stems in words for stem in stems)
    there = _content(rewrite, language) | _all_stems(rewrite, language)
    there |= _values(rewrite, language)
    found = []
    for sentence, stems in zip(parts, words, strict=True):
        own = {stem for stem in stems if owners[stem] == 1}
        if len(own) >= _FEWEST and len(own & there) < least * len(own):
            found.append(sentence)
    return found


def copied(source: str, rewrite: str, language: str) -> float:
    """The share of the rewrite's shingles that stand in the source."""
    found = shingles.of([source, rewrite], [language] * 2, words=8, letters=16)
    of_source = set(found.hash_N[found.document_N == 0].tolist())
    of_rewrite = found.hash_N[found.document_N == 1].tolist()
    return sum(one in of_source for one in of_rewrite) / max(len(of_rewrite), 1)


def repeated(text: str, language: str) -> float:
    """The share of shingles that occurred earlier in the text."""
    hashes = shingles.of([text], [language], words=8, letters=16).hash_N
    return 1.0 - len(set(hashes.tolist())) / max(len(hashes), 1)


def _content(text: str, language: str) -> set[str]:
    size = _STEM.get(language, 5)
    if language == "ko":
        return {word[:size] for word in korean_words.content(text) - _KOREAN_STOP}
    shortest = _SHORTEST.get(language, 4)
    words = [word.lower() for word in _WORD.findall(text)]
    return {word[:size] for word in words if len(word) >= shortest and word not in _STOP}


def _values(text: str, language: str) -> set[str]:
    return {f"{one.value:f}" for one in numbers.of(text, language)}


def _all_stems(text: str, language: str) -> set[str]:
    """Beginnings at any place, where no blank separates words."""
    size = _STEM.get(language)
    if size is None:
        return set()
    joined = (word.lower() for word in _WORD.findall(text))
    return {word[place : place + size] for word in joined for place in range(len(word) - size + 1)}
