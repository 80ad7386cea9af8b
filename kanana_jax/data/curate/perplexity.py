"""Drops the documents of each language that a model finds hardest: bits per byte, by quantile.

Bits per byte of two languages are not comparable, so each has a limit of its own.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from kanana_jax.data.curate import models
from kanana_jax.data.curate.document import Document, Dropped, Verdict
from kanana_jax.data.curate.stage import Decision, Stage, Survey, Surveys, joined


def stage(folder: str, share: float) -> Stage:
    """share: the share of the documents of each language that is dropped."""
    return Stage(
        name="perplexity",
        settings={**models.told(folder, "bits_per_byte"), "share": share},
        survey=functools.partial(_survey, folder=folder),
        decide=functools.partial(_decide, share=share),
        apply=_apply,
        is_alone=True,
    )


def _survey(documents: Sequence[Document], *, folder: str) -> Survey:
    texts = [one.text for one in documents]
    return {
        "language": np.array([one.language for one in documents], "U16"),
        "bits": models.measure("bits_per_byte", folder)(texts),
    }


def _decide(surveys: Surveys, *, share: float) -> Decision:
    language_D, bits_D = joined(surveys, "language"), joined(surveys, "bits")
    limits = {
        language: _limit(bits_D[language_D == language], share)
        for language in np.unique(language_D).tolist()
    }
    means = {
        language: round(float(bits_D[language_D == language].mean()), 4) for language in limits
    }
    return Decision([limits] * len(surveys), {"bits_per_byte": means, "most": limits})


def _limit(bits_D: np.ndarray, share: float) -> float:
    """The value that a share of the documents, rounded down, lies above."""
    num_kept = len(bits_D) - int(share * len(bits_D))
    return float(np.sort(bits_D)[num_kept - 1]) if num_kept else -1.0


def _apply(
    documents: Sequence[Document], survey: Survey, ruling: Mapping[str, float]
) -> list[Verdict]:
    return [
        _verdict(one, bits, ruling[one.language])
        for one, bits in zip(documents, survey["bits"].tolist(), strict=True)
    ]


def _verdict(document: Document, bits: float, limit: float) -> Verdict:
    if bits > limit:
        return Dropped("hard to predict", f"{bits:.3f} bits per byte, limit {limit:.3f}")
    return document.with_note("bits_per_byte", bits)
