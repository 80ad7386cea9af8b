"""Held-out loss, in all and by source."""

import numpy as np
import pytest

from kanana_jax.jobs import heldout

NATS = np.log(2) * np.array([8.0, 5.0, 2.0, 6.0, 0.0])
BYTES = np.array([4.0, 4.0, 2.0, 2.0, 0.0])  # the last fills up its batch
PER_BATCH = [(NATS[:3], BYTES[:3]), (NATS[3:], BYTES[3:])]


def test_loss_of_each_source_is_that_of_its_own_sequences():
    sources = heldout.Sources(
        names=("texts/ko.jsonl.gz", "texts/en.jsonl"), source_S=np.array([0, 1, 0, 1])
    )
    found = heldout.summarize(PER_BATCH, sources)
    assert found["heldout_bpb"] == pytest.approx(21 / 12)
    assert found["heldout_bpb_ko"] == pytest.approx(10 / 6)
    assert found["heldout_bpb_en"] == pytest.approx(11 / 6)
    assert found["heldout_bpb_ko_stderr"] > 0
    assert len(found["heldout_nats"]) == 4


def test_a_single_source_has_no_loss_of_its_own():
    sources = heldout.Sources(names=("all.txt",), source_S=np.zeros(4, np.int64))
    assert not any("all" in name for name in heldout.summarize(PER_BATCH, sources))


def test_files_of_one_name_are_numbered():
    sources = heldout.Sources(names=("a/text.jsonl", "b/text.txt"), source_S=np.zeros(0, np.int64))
    assert sources.labels == ["text_1", "text_2"]
