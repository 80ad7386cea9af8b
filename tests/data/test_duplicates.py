"""Who survives among duplicates, and what holds text of an evaluation set."""

import curated
import numpy as np
import pytest
from small_corpora import write_jsonl

from kanana_jax.data import DataError
from kanana_jax.data.curate import decontaminate, duplicates
from kanana_jax.data.curate.document import Document, Dropped


def _kept(verdicts):
    return {one.id for shard in verdicts for one in shard if isinstance(one, Document)}


STAGES = pytest.mark.parametrize("stage", [duplicates.exact(), duplicates.near(0.8)])


@STAGES
def test_the_best_then_the_longest_then_the_smallest_id_survives_in_any_order(stage):
    (text,) = curated.prose("en", 1)
    others = curated.documents(curated.prose("en", 6, seed=9), "en")
    alike = [
        Document("c", text, "t", "en", {"quality": 1.0}),
        Document("b", text, "t", "en", {"quality": 1.0}),
        Document("d", f"{text}  ", "t", "en", {"quality": 1.0}),
        Document("a", f"{text}    ", "t", "en", {"quality": 0.5}),
    ]
    rng = np.random.default_rng(0)
    for left in (alike, alike[:2], [alike[0], alike[3]]):
        best = {4: "d", 2: "b" if left[1].id == "b" else "c"}[len(left)]
        for _ in range(3):
            order = rng.permutation(len(left) + len(others))
            shuffled = [[*left, *others][place] for place in order]
            verdicts = curated.decide_and_apply(stage, curated.halves(shuffled))
            assert _kept(verdicts) == {best, *(one.id for one in others)}


@STAGES
def test_a_dropped_document_names_the_one_that_stays(stage):
    texts = curated.prose("ko", 2)
    shards = [curated.documents(texts, "ko"), curated.documents([texts[1].upper()], "ko")]
    verdicts = curated.decide_and_apply(stage, shards)
    dropped = [one for shard in verdicts for one in shard if isinstance(one, Dropped)]
    (survivor,) = _kept(verdicts) & {shards[0][1].id, shards[1][0].id}
    assert dropped == [Dropped("duplicate", f"of {survivor}")]


@pytest.mark.parametrize("language", ["en", "ko"])
def test_a_run_of_an_evaluation_text_inside_a_document_is_found(language, tmp_path):
    questions, clean = curated.prose(language, 3, seed=1), curated.prose(language, 20, seed=2)
    path = write_jsonl(tmp_path / "eval.jsonl", questions)
    middle = questions[1][40:200].replace(" ", "\n").upper()
    dirty = f"{clean[0]} {middle} {clean[1]}"
    stage = decontaminate.stage([str(path)], "text")
    verdicts = stage.apply(curated.documents([*clean, dirty], language), {}, None)
    assert [isinstance(one, Dropped) for one in verdicts] == [False] * 20 + [True]


def test_evaluation_texts_that_are_all_too_short_are_refused(tmp_path):
    path = write_jsonl(tmp_path / "eval.jsonl", ["What is 2 + 2?", "4"])
    with pytest.raises(DataError, match="expected texts of 13 words or 30 characters, got 2 short"):
        decontaminate.stage([str(path)], "text")
