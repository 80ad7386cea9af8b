"""Exact and near duplicates: one document of every group stays.

    exact      equal but for case and blanks
    minhash    the Jaccard index of their shingles is estimated at `threshold` or more

The one of highest quality stays, where an earlier stage has measured that; then the longer one,
then the one with the smaller id. So which one stays does not depend on the order of arrival.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kanana_jax.data.curate import minhash, shingles
from kanana_jax.data.curate.document import Document, Dropped, Verdict
from kanana_jax.data.curate.stage import Decision, Stage, Survey, Surveys, joined, rows

WORDS, LETTERS = 5, 5  # of a shingle


def exact() -> Stage:
    return Stage(name="exact", survey=_survey_exact, decide=_decide_exact, apply=_apply)


def near(threshold: float) -> Stage:
    return Stage(
        name="minhash",
        settings={"threshold": threshold, "buckets": minhash.NUM_BUCKETS,
                  "bands": minhash.NUM_BANDS, "words": WORDS, "letters": LETTERS},
        survey=_survey_near,
        decide=functools.partial(_decide_near, threshold=threshold),
        apply=_apply,
    )  # fmt: skip


def _ranks(documents: Sequence[Document]) -> Survey:
    return {
        "id": np.array([one.id for one in documents], "U"),
        "quality": np.array([one.notes.get("quality", 0.0) for one in documents], np.float64),
        "size": np.array([len(one.text) for one in documents], np.int64),
    }


def _survey_exact(documents: Sequence[Document]) -> Survey:
    folded = (" ".join(one.text.casefold().split()) for one in documents)
    hashes = [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in folded]
    return {"hash": np.array(hashes, "U32"), **_ranks(documents)}


def _survey_near(documents: Sequence[Document]) -> Survey:
    found = shingles.of(
        [one.text for one in documents],
        [one.language for one in documents],
        words=WORDS,
        letters=LETTERS,
    )
    return {"signature": minhash.signatures(found, len(documents)), **_ranks(documents)}


def _decide_exact(surveys: Surveys) -> Decision:
    _, group_D = np.unique(joined(surveys, "hash"), return_inverse=True)
    return _decided(surveys, group_D)


def _decide_near(surveys: Surveys, *, threshold: float) -> Decision:
    return _decided(surveys, minhash.groups(joined(surveys, "signature"), threshold))


def _decided(surveys: Surveys, group_D: np.ndarray) -> Decision:
    """A ruling maps the place of each dropped document to the id of the one that stays."""
    ids = joined(surveys, "id").tolist()
    quality, size = joined(surveys, "quality").tolist(), joined(surveys, "size").tolist()
    ranks = [(-quality[one], -size[one], ids[one], one) for one in range(len(ids))]
    rulings: list[dict[str, str]] = [{} for _ in surveys]
    like = minhash.survivors(group_D, ranks)
    for one, row in enumerate(rows(surveys, "id")):
        if one in like:
            rulings[row.shard][str(row.place)] = ids[like[one]]
    return Decision(rulings, {"groups": len(set(like.values()))})


def _apply(
    documents: Sequence[Document], survey: Survey, ruling: Mapping[str, str]
) -> list[Verdict]:
    return [_verdict(one, ruling.get(str(place))) for place, one in enumerate(documents)]


def _verdict(document: Document, like: Any) -> Verdict:
    return document if like is None else Dropped("duplicate", f"of {like}")
