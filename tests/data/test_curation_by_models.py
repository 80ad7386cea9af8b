"""Stages that fit a head or ask a model."""

import json
from pathlib import Path

import curated
import numpy as np
import pytest

from kanana_jax.checkpoint import CheckpointError
from kanana_jax.data import DataError
from kanana_jax.data.curate import education, models, perplexity
from kanana_jax.data.curate.document import Document

TRAINED = Path(__file__).parents[1] / "generate" / "trained"


def _labels(path, documents, label_of):
    lines = [{"id": one.id, "label": label_of(one)} for one in documents[::2]]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return str(path)


def _is_lesson(document):
    return document.text.startswith("Lesson")


@pytest.fixture
def mixed():
    """English and Korean; every third is a lesson."""
    texts = [*curated.prose("en", 120), *curated.prose("ko", 120)]
    languages = ["en"] * 120 + ["ko"] * 120
    lesson = "Lesson: because the sum of angles is equal, therefore the theorem follows. "
    return [
        curated.documents([lesson + text if i % 3 == 0 else text], language)[0]
        for i, (text, language) in enumerate(zip(texts, languages, strict=True))
    ]


def test_a_head_on_half_of_the_labels_finds_the_other_half(mixed, tmp_path):
    path = _labels(tmp_path / "labels.jsonl", mixed, lambda one: 5.0 * _is_lesson(one))
    stage = education.stage(path, 2.5, None)
    shards = curated.halves(mixed)
    told = stage.decide([stage.survey(one) for one in shards]).told
    assert told["heldout_f1"] > 0.9 and told["heldout"] + 50 < told["labels"] == 120
    verdicts = [one for shard in curated.decide_and_apply(stage, shards) for one in shard]
    kept = [isinstance(one, Document) for one in verdicts]
    wanted = [_is_lesson(one) for one in mixed]
    assert np.mean([a == b for a, b in zip(kept, wanted, strict=True)]) > 0.95
    assert all(one.notes["quality"] >= 2.5 for one in verdicts if isinstance(one, Document))


def test_labels_that_say_nothing_fit_nothing(mixed, tmp_path):
    path = _labels(tmp_path / "labels.jsonl", mixed, lambda one: int(one.id[:2], 16) / 51)
    stage = education.stage(path, 2.5, None)
    assert stage.decide([stage.survey(mixed)]).told["heldout_r2"] < 0.3


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('{"id": "a", "label": "good"}', "line 1: expected a number as label, got a string"),
        ('{"label": 3}', "line 1: expected the key 'text'"),
        ('{"id": "a", "label": 3}', "expected 50 labels or more, of two kinds at least, got 1"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path, line, wanted):
    path = tmp_path / "labels.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=wanted):
        education.read_labels(str(path))


def test_labels_of_other_text_are_refused(mixed, tmp_path):
    path = _labels(tmp_path / "labels.jsonl", mixed, lambda one: 5.0 * _is_lesson(one))
    stage = education.stage(path, 2.5, None)
    others = curated.documents(curated.prose("en", 60, seed=5), "en")
    with pytest.raises(DataError, match=r"expected 50 labelled documents.*got 0"):
        stage.decide([stage.survey(others)])


def test_what_a_model_finds_hardest_is_dropped_in_each_language(monkeypatch):
    bits = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 9.0, "e": 4.0, "f": 8.0, "g": 4.5}
    monkeypatch.setattr(
        models, "measure", lambda kind, folder: lambda texts: np.array([bits[t] for t in texts])
    )
    documents = [*curated.documents(list("abc"), "en"), *curated.documents(list("defg"), "ko")]
    stage = perplexity.stage(str(TRAINED), 0.5)
    verdicts = curated.decide_and_apply(stage, [documents[:2], documents[2:5], documents[5:]])
    kept = [one for shard in verdicts for one in shard if isinstance(one, Document)]
    assert [one.text for one in kept] == ["a", "c", "e", "g"]
    assert [one.notes["bits_per_byte"] for one in kept] == [1.0, 2.0, 4.0, 4.5]


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError):
        perplexity.stage(str(tmp_path), 0.5)
