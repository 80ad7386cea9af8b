"""Accuracy of the next token, in all and by source."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax.jobs import buckets, heldout
from kanana_jax.model import presets
from kanana_jax.train import head

SOURCES = heldout.Sources(names=("a/ko.jsonl", "en.jsonl"), source_S=np.array([0, 1, 0]))
HITS, TOKENS = np.array([1.0, 2.0, 3.0, 0.0]), np.array([4.0, 2.0, 4.0, 0.0])
PER_BATCH = [(HITS[:2], TOKENS[:2]), (HITS[2:], TOKENS[2:])]
SHARES = {"ko": 0.25, "en": 0.75}


def test_accuracy_of_each_source_is_that_of_its_own_sequences():
    found = buckets.summarize(PER_BATCH, SOURCES, SHARES)
    assert found == {
        "heldout_token_accuracy": pytest.approx(6 / 10),
        "heldout_token_accuracy_ko": pytest.approx(4 / 8),
        "heldout_token_accuracy_en": pytest.approx(2 / 2),
        "share_trained_ko": 0.25,
        "share_trained_en": 0.75,
    }


def test_a_single_source_has_no_bucket():
    alone = heldout.Sources(names=("a.jsonl",), source_S=np.zeros(3, np.int64))
    found = buckets.summarize(PER_BATCH, alone, {"a": 1.0})
    assert found == {"heldout_token_accuracy": pytest.approx(0.6)}


@pytest.mark.parametrize("chunk_tokens", [3, 8, 4096])
@pytest.mark.parametrize("is_tied", [False, True])
def test_hits_are_those_of_the_whole_logits(chunk_tokens, is_tied):
    cfg = dataclasses.replace(presets.tiny(vocab_size=11), tie_embeddings=is_tied)
    rng = np.random.default_rng(0)
    hidden_BSD = jnp.asarray(rng.normal(size=(2, 7, cfg.hidden_size)), jnp.float32)
    head_DV = jnp.asarray(rng.normal(size=(cfg.hidden_size, 11)), jnp.float32)
    logits_BSV = hidden_BSD @ head_DV
    targets_BS = jnp.where(rng.random((2, 7)) < 0.5, logits_BSV.argmax(-1), 3)
    params = {"embed": head_DV.T} if is_tied else {"head": head_DV}
    found = head.hits(cfg, params, hidden_BSD, targets_BS, chunk_tokens=chunk_tokens)
    wanted = np.asarray(logits_BSV.argmax(-1) == targets_BS, np.float32)
    assert 0 < wanted.sum() < wanted.size
    np.testing.assert_array_equal(found, wanted)
