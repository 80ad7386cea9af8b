"""Morphemes of Korean text by Kiwi, a morphological analyser with models of its own.

Tags are those of the Sejong corpus: NNG noun, NNP proper noun, VV verb, VA adjective, MAG adverb,
XR root, SL Latin letters, SN digits, NR numeral.
"""

import functools

from kanana_jax import extras

_CONTENT = frozenset(("NNG", "NNP", "NR", "VV", "VA", "MAG", "XR", "SL"))


@functools.cache
def analyser():
    """Loads the models; ModuleNotFoundError without the extra `korean`."""
    with extras.needed("korean"):
        from kiwipiepy import Kiwi
    return Kiwi(num_workers=1)


@functools.lru_cache(256)
def tokens(text: str) -> tuple:
    """With form, tag, start and len each; verbs without their endings."""
    return tuple(analyser().tokenize(text))


def content(text: str) -> set[str]:
    """Words that say something by themselves."""
    return {one.form.lower() for one in tokens(text) if one.tag.partition("-")[0] in _CONTENT}
