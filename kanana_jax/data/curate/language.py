"""Which language a document is in: by its script, and where languages share a script, by py3langid.

Hangul, kana, Thai, and Han without kana     ko, ja, th, zh: no model is asked
Latin, Cyrillic                              py3langid, among the languages of the script
"""

import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from kanana_jax.config import ConfigError
from kanana_jax.data.curate import characters
from kanana_jax.data.curate.characters import LETTERS, Kind
from kanana_jax.data.curate.document import Document, Dropped, Verdict
from kanana_jax.data.curate.stage import Stage, Survey

# The languages that documents of a shared script may be in. Any other is identified badly.
LATIN = ("en", "de", "fr", "es", "it", "pt", "nl", "pl", "cs", "sv", "tr", "id", "vi")
CYRILLIC = ("ru", "uk", "bg")
BY_SCRIPT = ("ko", "ja", "zh", "th")
KNOWN = (*BY_SCRIPT, *LATIN, *CYRILLIC)
_FEWEST_LETTERS = 8
_OWN_SHARE = 0.3  # of the letters: Korean text about computers is full of Latin words
_KANA_SHARE = 0.05  # of kana and Han
_SAMPLE = 128  # characters that the model reads

Classify = Callable[[str], tuple[str, float]]  # the language and how sure, 0 to 1


def stage(wanted: Sequence[str], min_confidence: float) -> Stage:
    """Keeps documents in a language of `wanted`. ConfigError for unknown ones, or without a model.

    min_confidence: of the model, 0 to 1; what it is less sure of is dropped.
    """
    unknown = [one for one in wanted if one not in KNOWN]
    if unknown or not wanted:
        raise ConfigError(
            f"--languages must be of {','.join(KNOWN)}, one or more; got {','.join(unknown)!r}"
        )
    shared = [one for one in wanted if one not in BY_SCRIPT]
    version = None
    if shared:
        if not importlib.util.find_spec("py3langid"):
            raise ConfigError(
                f"--languages has {','.join(shared)}, whose script others share; pip install "
                "'kanana_jax[curate]' for py3langid, or leave out the stage language"
            )
        version = importlib.metadata.version("py3langid")
    return Stage(
        name="language",
        settings={
            "languages": sorted(wanted), "min_confidence": min_confidence, "py3langid": version
        },
        apply=functools.partial(
            _apply, wanted=frozenset(wanted), min_confidence=min_confidence,
            classify=_by_model if shared else _not_asked
        ),
    )  # fmt: skip


def identify(texts: Sequence[str], classify: Classify) -> list[tuple[str, float]]:
    """The language of each text and how sure; "" where there are too few letters."""
    return [
        _by_counts(count, text, classify)
        for batch in characters.batches(texts)
        for count, text in zip(
            characters.of(texts[batch]).counts().tolist(), texts[batch], strict=True
        )
    ]


def _by_counts(count: Sequence[int], text: str, classify: Classify) -> tuple[str, float]:
    letters = sum(count[kind] for kind in LETTERS)
    if letters < _FEWEST_LETTERS:
        return "", 0.0
    east_asian = count[Kind.KANA] + count[Kind.HAN]
    for language, own in (("ko", count[Kind.HANGUL]), ("th", count[Kind.THAI])):
        if own >= _OWN_SHARE * letters and own >= east_asian:
            return language, 1.0
    if east_asian >= _OWN_SHARE * letters:
        return "ja" if count[Kind.KANA] >= _KANA_SHARE * east_asian else "zh", 1.0
    if 2 * (count[Kind.LATIN] + count[Kind.CYRILLIC]) < letters:
        return "other script", 1.0
    return classify(text[:_SAMPLE])


@functools.cache
def _model() -> Any:
    from py3langid import langid  # pyright: ignore[reportMissingImports]

    model = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    model.set_languages([*LATIN, *CYRILLIC])
    return model


def _by_model(text: str) -> tuple[str, float]:
    return _model().classify(text)


def _not_asked(text: str) -> tuple[str, float]:
    return "Latin or Cyrillic", 1.0


def _apply(
    documents: Sequence[Document],
    survey: Survey,
    ruling: Any,
    *,
    wanted: frozenset[str],
    min_confidence: float,
    classify: Classify,
) -> list[Verdict]:
    found = identify([one.text for one in documents], classify)
    return [
        _verdict(one, language, sureness, wanted, min_confidence)
        for one, (language, sureness) in zip(documents, found, strict=True)
    ]


def _verdict(
    document: Document, language: str, sureness: float, wanted: frozenset[str], least: float
) -> Verdict:
    if not language:
        return Dropped("too few letters")
    if language not in wanted:
        return Dropped("another language", language)
    if sureness < least:
        return Dropped("language not sure", f"{language} {sureness:.2f}")
    return document._replace(language=language)
