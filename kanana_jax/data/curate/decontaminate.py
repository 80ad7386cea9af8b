"""Drops documents that share text with evaluation sets: a run of words, or of characters.

A run is 13 words as in arXiv:2005.14165 (appendix C), or 30 characters in Korean, Japanese, Chinese
and Thai. Case and blanks make no difference. A shorter evaluation text cannot be found.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from kanana_jax import config
from kanana_jax.data import sources
from kanana_jax.data.curate import shingles
from kanana_jax.data.curate.document import Document, Dropped, Verdict
from kanana_jax.data.curate.stage import Stage, Survey
from kanana_jax.data.errors import DataError

WORDS, LETTERS = 13, 30


def stage(paths: Sequence[str], text_field: str) -> Stage:
    """The stage for texts of `paths`, read as `data.paths`. DataError where all are too short."""
    cfg = config.DataConfig(paths=tuple(paths), text_field=text_field)
    texts = [text.decode() for source in sources.open_sources(cfg) for text in source.read()]
    long = [text for text in texts if len(text.split()) >= WORDS or len(text) >= LETTERS]
    runs = _runs(long)
    if not len(runs):
        raise DataError(
            f"--against={','.join(paths)}: expected texts of {WORDS} words or {LETTERS} "
            f"characters, got {len(texts)} shorter ones; add their questions to the field "
            f"{text_field!r}."
        )
    return Stage(
        name="decontaminate",
        settings={"against": list(paths), "texts": len(texts), "too_short": len(texts) - len(long),
                  "runs": len(runs), "digest": f"{int(np.bitwise_xor.reduce(runs)):016x}"},
        apply=functools.partial(_apply, runs=runs),
    )  # fmt: skip


def _runs(texts: Sequence[str]) -> np.ndarray:
    """The sorted hashes of all runs, of words and of characters."""
    found = [
        shingles.of(texts, [language] * len(texts), words=WORDS, letters=LETTERS).hash_N
        for language in ("en", "ko")
    ]
    return np.unique(np.concatenate(found))


def _apply(
    documents: Sequence[Document], survey: Survey, ruling: Any, *, runs: np.ndarray
) -> list[Verdict]:
    found = shingles.of(
        [one.text for one in documents],
        [one.language for one in documents],
        words=WORDS,
        letters=LETTERS,
    )
    place_N = np.minimum(np.searchsorted(runs, found.hash_N), len(runs) - 1)
    hit_N = found.document_N[runs[place_N] == found.hash_N]
    hits_D = np.bincount(hit_N, minlength=len(documents)).tolist()
    return [
        Dropped("evaluation text", f"{hits} runs in common") if hits else one
        for one, hits in zip(documents, hits_D, strict=True)
    ]
