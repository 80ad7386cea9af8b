"""What a model says of documents, found by the names that curation has for it."""

import math
from pathlib import Path

import numpy as np
import pytest

from kanana_jax import generate
from kanana_jax.checkpoint import CheckpointError
from kanana_jax.data.curate import models
from kanana_jax.evaluate import document_scores, scoring
from kanana_jax.weights import hf

TRAINED = Path(__file__).parents[1] / "generate" / "trained"


@pytest.mark.long
def test_bits_per_byte_are_those_of_the_scorer():
    texts = ["Muon's model", "", "\ud55c\uad6d\uc5b4 is not known to it, long as it is."]
    found = document_scores.bits_per_byte(str(TRAINED), num_rows=2, length=16)(texts)
    loaded = generate.load(TRAINED)
    scorer = scoring.Scorer(loaded, num_rows=2, length=16)
    for bits, text in zip(found, texts, strict=True):
        (ids,) = loaded.tokenizer.encode_batch([text.encode()])
        pairs = scoring.windows(ids.tolist(), scoring.prefix_id(loaded), 16)
        total = sum(score.loglikelihood for _, score in scorer.score(pairs))
        wanted = -total / math.log(2.0) / max(len(text.encode()), 1)
        assert bits == pytest.approx(wanted, rel=1e-5)
    assert 0 < found[0] < found[2]


@pytest.mark.long
def test_states_are_a_row_for_each_document_whatever_stands_beside_it(tmp_path):
    folder = tmp_path / "native"
    hf.import_directory(TRAINED, folder)
    measure = document_scores.states(str(folder), num_rows=2, length=16)
    texts = ["Muon's model", "another text that is cut", "Muon's model"]
    found = measure(texts)
    assert len(found) == 3
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 0.01
    np.testing.assert_array_equal(measure([texts[1] + "!"])[0], found[1])
    assert measure([]).shape == (0, found.shape[1])


@pytest.mark.parametrize("kind", ["bits_per_byte", "states"])
def test_curation_finds_them_by_name_and_refuses_what_they_cannot_read(kind, tmp_path):
    assert hasattr(document_scores, kind)
    with pytest.raises(CheckpointError):
        models.told(str(tmp_path), kind)
