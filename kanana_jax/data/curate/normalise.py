"""Normal forms: encodings mended where ftfy is installed, NFC, plain line ends and blanks."""

import functools
import importlib.metadata
import importlib.util
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from kanana_jax.data.curate.document import Document, Dropped, Verdict
from kanana_jax.data.curate.stage import Stage, Survey

_LINE_END = re.compile("\r\n?|\x85|\u2028|\u2029|\x0b|\x0c")
# Controls, half surrogates, the byte order mark and zero-width blanks; joiners are needed in words.
_UNWANTED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff\u200b\u2060\xad]")
_TRAILING = re.compile(r"[ \t\u00a0\u3000]+(?=\n|\Z)")
_EMPTY_LINES = re.compile(r"\n{3,}")


def stage() -> Stage:
    """ftfy takes part where it is installed; its version is a setting of the run."""
    version = None
    if importlib.util.find_spec("ftfy"):
        version = importlib.metadata.version("ftfy")
    return Stage(
        name="normalise",
        settings={"ftfy": version},
        apply=functools.partial(_apply, mends=version is not None),
    )


def _apply(
    documents: Sequence[Document], survey: Survey, ruling: Any, *, mends: bool
) -> list[Verdict]:
    return [_verdict(one, normal(one.text, mends=mends)) for one in documents]


def normal(text: str, *, mends: bool = False) -> str:
    """The text in NFC, without controls, trailing blanks or more than one empty line in a row."""
    if mends:
        text = _mended(text)
    text = _UNWANTED.sub("", _LINE_END.sub("\n", text))
    text = unicodedata.normalize("NFC", text)
    return _EMPTY_LINES.sub("\n\n", _TRAILING.sub("", text)).strip("\n")


def _mended(text: str) -> str:
    from ftfy import badness, fix_encoding  # pyright: ignore[reportMissingImports]

    # Slow, and of no use where nothing looks broken.
    return fix_encoding(text) if not text.isascii() and badness.is_bad(text) else text


def _verdict(document: Document, text: str) -> Verdict:
    return document._replace(text=text) if text.strip() else Dropped("empty")
