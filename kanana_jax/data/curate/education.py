"""Educational value after FineWeb-Edu: frozen features, a ridge head on labels, a minimum score.

    score = features . w + b        w, b = argmin  |labels - score|^2 + l |w|^2

Features are a model's mean states, or without a model hashed shingles of one and two words (two and
three characters). A fifth of the labels, chosen by id, is held out: it decides l, and the report
says how well scores fit it. Where labels are a proxy, so is what the stage keeps.

Letters: D documents, F features.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from kanana_jax.data import jsonl
from kanana_jax.data.curate import document as documents_of
from kanana_jax.data.curate import models, shingles
from kanana_jax.data.curate.document import Document, Dropped, Verdict
from kanana_jax.data.curate.stage import Decision, Stage, Survey, Surveys, joined
from kanana_jax.data.errors import DataError

FEWEST = 50  # labels
_NUM_HASHED = 1024
_RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


def stage(labels: str, least: float, folder: str | None) -> Stage:
    """labels: a .jsonl of {"id" or "text", "label"}; what scores less than `least` is dropped.

    DataError where the file has fewer than 50 labels, or they are all the same.
    """
    label_of = read_labels(labels)
    model = (
        dict(models.told(folder, "states"))
        if folder
        else {"features": f"{_NUM_HASHED} hashed shingles"}
    )
    return Stage(
        name="education",
        settings={"labels": labels, "num_labels": len(label_of), "least": least, **model},
        survey=functools.partial(_survey, label_of=label_of, folder=folder),
        decide=functools.partial(_decide, least=least),
        apply=functools.partial(_apply, least=least),
        is_alone=folder is not None,
    )


def read_labels(path: str) -> Mapping[str, float]:
    """The label of each id; a record without an id gets the id of its text."""
    found: dict[str, float] = {}
    for record in jsonl.read(jsonl.find(path)):
        if isinstance(record, DataError):
            raise record
        label = jsonl.field(record, "label")
        if isinstance(label, bool) or not isinstance(label, int | float):
            raise DataError(
                f"{record.where}: expected a number as label, got {jsonl.kind(label)}; give one"
            )
        name = record.fields.get("id")
        name = name or documents_of.of_text(str(jsonl.field(record, "text")), "").id
        found[str(name)] = float(label)
    if len(found) < FEWEST or len(set(found.values())) < 2:
        raise DataError(
            f"{path}: expected {FEWEST} labels or more, of two kinds at least, got {len(found)} of "
            f"{len(set(found.values()))}; label more documents"
        )
    return found


def _survey(
    documents: Sequence[Document], *, label_of: Mapping[str, float], folder: str | None
) -> Survey:
    texts = [one.text for one in documents]
    if folder:
        features_DF = models.measure("states", folder)(texts)
    else:
        features_DF = hashed(texts, [one.language for one in documents])
    return {
        "features": features_DF.astype(np.float16),
        "label": np.array([label_of.get(one.id, np.nan) for one in documents]),
        "id": np.array([one.id for one in documents], "U"),
    }


def hashed(texts: Sequence[str], languages: Sequence[str]) -> Float[np.ndarray, "D F"]:
    """log(1 + count) of hashed shingles; each row has length 1."""
    count_DF = np.zeros((len(texts), _NUM_HASHED), np.float32)
    for words, letters in ((1, 2), (2, 3)):
        found = shingles.of(texts, languages, words=words, letters=letters)
        key_N = found.document_N * _NUM_HASHED + (found.hash_N % _NUM_HASHED).astype(np.int64)
        count_DF += np.bincount(key_N, minlength=count_DF.size).reshape(count_DF.shape)
    value_DF = np.log1p(count_DF)
    return value_DF / np.maximum(np.linalg.norm(value_DF, axis=1, keepdims=True), 1e-6)


def _decide(surveys: Surveys, *, least: float) -> Decision:
    label_D, id_D = joined(surveys, "label"), joined(surveys, "id")
    features_DF = joined(surveys, "features").astype(np.float64)
    has_label_D = ~np.isnan(label_D)
    if has_label_D.sum() < FEWEST:
        raise DataError(
            f"education: expected {FEWEST} labelled documents among those that came this far, got "
            f"{has_label_D.sum()}; label documents of this text"
        )
    is_heldout_D = has_label_D & np.array([int(one[-2:], 36) % 5 == 0 for one in id_D.tolist()])
    is_fit_D = has_label_D & ~is_heldout_D
    heads = [_fitted(features_DF[is_fit_D], label_D[is_fit_D], ridge) for ridge in _RIDGES]
    losses = [
        np.mean((_scores(features_DF[is_heldout_D], *head) - label_D[is_heldout_D]) ** 2)
        for head in heads
    ]
    best = int(np.argmin(losses))
    score_D = _scores(features_DF, *heads[best]).round(4)
    told = {"ridge": _RIDGES[best], "labels": int(has_label_D.sum()),
            **_fit_of(score_D[is_heldout_D], label_D[is_heldout_D], least)}  # fmt: skip
    ends = np.cumsum([len(survey["label"]) for survey in surveys])[:-1]
    return Decision([part.tolist() for part in np.split(score_D, ends)], told)


def _fitted(features_DF: np.ndarray, label_D: np.ndarray, ridge: float) -> tuple[Any, float]:
    mean_F, mean = features_DF.mean(axis=0), label_D.mean()
    centred_DF = features_DF - mean_F
    if len(label_D) < len(mean_F):  # the smaller of two equal forms
        gram_DD = centred_DF @ centred_DF.T + ridge * np.eye(len(label_D))
        weights_F = centred_DF.T @ np.linalg.solve(gram_DD, label_D - mean)
    else:
        gram_FF = centred_DF.T @ centred_DF + ridge * np.eye(len(mean_F))
        weights_F = np.linalg.solve(gram_FF, centred_DF.T @ (label_D - mean))
    return weights_F, float(mean - mean_F @ weights_F)


def _scores(features_DF: np.ndarray, weights_F: np.ndarray, bias: float) -> np.ndarray:
    return features_DF @ weights_F + bias


def _fit_of(score_D: np.ndarray, label_D: np.ndarray, least: float) -> Mapping[str, Any]:
    """How well scores fit labels that they were not fitted on."""
    is_kept_D, is_good_D = score_D >= least, label_D >= least
    hits = int((is_kept_D & is_good_D).sum())
    spread = max(float(((label_D - label_D.mean()) ** 2).sum()), 1e-12)
    return {
        "heldout": len(label_D),
        "heldout_r2": round(1.0 - float(((score_D - label_D) ** 2).sum()) / spread, 4),
        "heldout_f1": round(2.0 * hits / max(int(is_kept_D.sum() + is_good_D.sum()), 1), 4),
    }


def _apply(
    documents: Sequence[Document], survey: Survey, ruling: Sequence[float], *, least: float
) -> list[Verdict]:
    return [
        one.with_note("quality", score) if score >= least else Dropped("low value", f"{score:.2f}")
        for one, score in zip(documents, ruling, strict=True)
    ]
