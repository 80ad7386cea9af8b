"""Columns: one number per token, which batches bring along; and the file that keeps them."""

import dataclasses

import numpy as np
import pytest

from kanana_jax.config import DataConfig
from kanana_jax.data import StoreError, chat, column_file, tokenizer
from kanana_jax.data.whole_documents import Examples, WholeDocuments

CFG = DataConfig(seq_len=12, batch_size=2)


@pytest.fixture
def corpus() -> WholeDocuments:
    """Ten pairs of segments of 2 to 6 tokens, no two tokens alike."""
    sizes = np.random.default_rng(0).integers(2, 7, 20)
    tokens = np.arange(sizes.sum(), dtype=np.uint16)
    examples = Examples(
        tokens_T=tokens,
        origin_T=np.full(len(tokens), chat.Origin.MODEL, np.uint8),
        ends_G=np.cumsum(sizes),
        source_N=np.zeros(10, np.int32),
        is_heldout_N=np.arange(10) % 5 == 0,
    )
    return WholeDocuments(
        names=("a",),
        kind="pairs",
        format=chat.PLAIN,
        tokenizer=tokenizer.byte_tokenizer(),
        examples=examples,
        fingerprint="f",
    )


def test_a_column_lies_beside_its_targets_and_is_zero_in_padding(corpus):
    # The number of each token is the token itself, so it shows which target it lies beside.
    column_T = corpus.examples.tokens_T.astype(np.float32)
    with_column = dataclasses.replace(corpus, columns={"reference": column_T})
    batches = [with_column.train_batch(CFG, number) for number in range(4)]
    for batch in [*batches, *with_column.heldout_batches(CFG, 9)]:
        found_BS = batch.extra["reference"]
        assert found_BS.dtype == np.float32 and found_BS.shape == (2, 12)
        np.testing.assert_array_equal(found_BS, batch.targets)
        assert not found_BS[batch.segment_ids == 0].any()
    # Nothing else of a batch depends on it.
    for with_it, without in zip(batches[0][:6], corpus.train_batch(CFG, 0)[:6], strict=True):
        np.testing.assert_array_equal(with_it, without)
    assert corpus.train_batch(CFG, 0).extra == {}


@pytest.mark.parametrize("rows", [None, [1]])
def test_every_target_of_every_example_comes_once(corpus, rows):
    seen = np.zeros(len(corpus.examples.tokens_T), int)
    for batch, places in corpus.every_example(CFG, rows):
        assert batch.tokens.shape == (2 if rows is None else 1, CFG.seq_len)
        for row, of_row in enumerate(places):
            seen[of_row] += 1
            if rows is None or row in rows:
                mine = batch.targets[row if rows is None else rows.index(row)]
                np.testing.assert_array_equal(mine[: len(of_row)], corpus.examples.tokens_T[of_row])
                assert not mine[len(of_row) :].any()
    firsts = np.concatenate([[0], corpus.examples.ends_G[:-1]])
    wanted = np.ones(len(seen), int)
    wanted[firsts] = 0  # what a segment begins with is nobody's target
    np.testing.assert_array_equal(seen, wanted)


def test_a_file_comes_back_bit_for_bit(tmp_path):
    column_T = np.random.default_rng(0).normal(size=100).astype(np.float32)
    path = tmp_path / "new" / "reference.npz"
    column_file.save(path, column_T)
    np.testing.assert_array_equal(column_file.load(path, 100), column_T)
    with pytest.raises(StoreError, match="expected 99 numbers"):
        column_file.load(path, 99)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_damaged_file_is_noticed(tmp_path, share):
    path = tmp_path / "reference.npz"
    column_file.save(path, np.arange(1000, dtype=np.float32))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StoreError, match="is damaged"):
        column_file.load(path, 1000)


def test_other_numbers_than_were_written_are_noticed_in_a_whole_file(tmp_path):
    path, column_T = tmp_path / "reference.npz", np.arange(9, dtype=np.float32)
    column_file.save(path, column_T)
    with np.load(path) as content:
        digest = content["digest"]
    np.savez(path, column_T=column_T + 1, digest=digest)
    with pytest.raises(StoreError, match="expected 9 numbers as they were written"):
        column_file.load(path, 9)
