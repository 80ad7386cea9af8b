"""Which sentences of a source a rewrite has nothing of, and how much of it is copied or repeated.

    own(s) = content words and numbers of sentence s that no other sentence of the source has
    s is missing  <=>  own(s) has words, and the share of them that the rewrite has is below `least`

Words are compared by their beginnings, so that endings may differ, and numbers by value. Copying
and repetition are shares of shingles of eight words (sixteen characters in Korean, Japanese,
Chinese and Thai).
"""

import re
from collections import Counter

from kanana_jax.data.curate import shingles
from kanana_jax.synthesize import chunks
from kanana_jax.synthesize.fidelity import numbers
from kanana_jax.synthesize.fidelity import words as lists

_WORD = re.compile(r"[^\W\d_]+")
_STEM = {"ko": 2, "ja": 2, "zh": 2, "th": 4}  # characters that two words share; others 5
_SHORTEST = {"ko": 2, "ja": 2, "zh": 2, "th": 4}  # others 4: shorter words are mostly grammar
_FEWEST = 3  # words of its own that a sentence needs to be looked for
_PARTICLE = re.compile(
    "(?:에서는|에서|에게|에는|으로|까지|부터|이라|이었다|였다|이다|에|은|는|이|가|을|를|의|와|과|도|로|만)$"
)
_STOP = frozenset(
    lists.listed("""
    about above after again also although among another because been before being below between
    both could does doing down during each even every from further have having here into itself
    just like made make many more most much must only other over same should since some still
    such than that their them then there these they this those through under until upon very
    were what when where which while will with within without would your later first known used
    using around once near well often usually instead today then made became called 그리고
    그러나 하지만 그래서 또한 이것 그것 있다 없다 있는 있었 했다 한다 하는 하고 위해 때문 이후
    지금 다시 모두 함께 가장 아주 매우 이런 그런 어떤 모든 그는 그녀 이는 이를 그를 대해 통해
    따라 것이 것을 것은 것으 되었 된다 되는 됐다 있으 있어 이다 였다 않는 않았 않은
""")
)


def missing(source: str, rewrite: str, language: str, least: float) -> list[str]:
    """The sentences of the source that the rewrite has not."""
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
    """The share of shingles that the text has had before."""
    hashes = shingles.of([text], [language], words=8, letters=16).hash_N
    return 1.0 - len(set(hashes.tolist())) / max(len(hashes), 1)


def _content(text: str, language: str) -> set[str]:
    shortest, size = _SHORTEST.get(language, 4), _STEM.get(language, 5)
    words = [word.lower() for word in _WORD.findall(text)]
    if language == "ko":
        words = [_PARTICLE.sub("", word) for word in words]
    return {word[:size] for word in words if len(word) >= shortest and not _is_stop(word, size)}


def _values(text: str, language: str) -> set[str]:
    return {f"{one.value:f}" for one in numbers.of(text, language)}


def _is_stop(word: str, size: int) -> bool:
    return word in _STOP or (size == 2 and word[:2] in _STOP)


def _all_stems(text: str, language: str) -> set[str]:
    """Beginnings anywhere in Korean and its like, where compounds are written as one or as two."""
    size = _STEM.get(language)
    if size is None:
        return set()
    joined = (word.lower() for word in _WORD.findall(text))
    return {word[place : place + size] for word in joined for place in range(len(word) - size + 1)}
