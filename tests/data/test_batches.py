"""Batches are a pure function of (seed, step), whatever was read before."""

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest
from small_corpora import documents

from kanana_jax import data
from kanana_jax.batch import Batch
from kanana_jax.data import packing


def assert_equal_batches(got, want):
    for name, a, b in zip(Batch._fields, got, want, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_resume_at_every_step_equals_the_unbroken_stream(open_text):
    corpus, cfg = open_text(documents(100), documents(60, 1000))
    num_steps = 75
    epoch = sum(array.num_tokens for array in corpus.train) // (cfg.seq_len * cfg.batch_size)
    assert num_steps > epoch + 2, "the stream must pass the end of an epoch"
    unbroken = list(itertools.islice(data.train_batches(corpus, cfg), num_steps))
    for step in range(num_steps):
        assert_equal_batches(data.train_batch(corpus, cfg, step), unbroken[step])
        resumed = itertools.islice(data.train_batches(corpus, cfg, start_step=step), 3)
        for got, want in zip(resumed, unbroken[step:], strict=False):
            assert_equal_batches(got, want)


@pytest.mark.parametrize("rows", [[0, 1], [3], [1, 2, 3]])
def test_rows_of_a_batch_are_those_of_the_whole_one_and_no_other_is_read(
    rows, open_text, monkeypatch
):
    """What a process with the devices of these rows loads."""
    corpus, cfg = open_text(documents(100), documents(60, 1000))
    whole = [data.train_batch(corpus, cfg, step) for step in (0, 1, 70)]
    heldout = data.heldout_batches(corpus, cfg, 9)
    read, window_of = [], packing.Packing.window_of
    monkeypatch.setattr(
        packing.Packing, "window_of", lambda *args: read.append(args) or window_of(*args)
    )
    for step, wanted in zip((0, 1, 70), whole, strict=True):
        mine = data.train_batch(corpus, cfg, step, rows=rows)
        assert_equal_batches(mine, wanted.map(lambda column: column[rows]))
    assert len(read) == 3 * len(rows)
    stream = itertools.islice(data.train_batches(corpus, cfg, start_step=1, rows=rows), 1)
    assert_equal_batches(next(stream), whole[1].map(lambda column: column[rows]))
    mine = data.heldout_batches(corpus, cfg, 9, rows=rows)
    for got, wanted in zip(mine, heldout, strict=True):
        assert_equal_batches(got, wanted.map(lambda column: column[rows]))


def test_batch_has_the_declared_shapes_and_types(open_text):
    corpus, cfg = open_text(documents(100))
    for batch in (data.train_batch(corpus, cfg, 0), *data.heldout_batches(corpus, cfg, 9)):
        assert {column.shape for column in batch[:6]} == {(cfg.batch_size, cfg.seq_len)}
        dtypes = [column.dtype.name for column in batch[:6]]
        assert dtypes == ["int32"] * 4 + ["float32"] * 2


def test_seed_changes_the_training_batches_and_not_the_heldout_ones(open_text):
    corpus, cfg = open_text(documents(100))
    other = dataclasses.replace(cfg, seed=1)
    first, second = (data.train_batch(corpus, c, 0).tokens for c in (cfg, other))
    assert (first != second).any()
    for a, b in zip(
        data.heldout_batches(corpus, cfg, 2), data.heldout_batches(corpus, other, 2), strict=True
    ):
        assert_equal_batches(a, b)


def test_an_epoch_of_batches_holds_each_window_once(open_text):
    corpus, cfg = open_text(documents(100), batch_size=1)
    num_windows = (corpus.train[0].num_tokens - 1) // cfg.seq_len
    epochs = []
    for epoch in range(2):
        steps = range(epoch * num_windows, (epoch + 1) * num_windows)
        tokens = np.concatenate([data.train_batch(corpus, cfg, step).tokens[0] for step in steps])
        epochs.append(tokens)
        counts = np.bincount(tokens, minlength=corpus.vocab_size)
        whole = np.bincount(corpus.train[0].read(0, 10**9), minlength=corpus.vocab_size)
        assert (counts <= whole).all()
        assert whole.sum() - counts.sum() <= cfg.seq_len
    assert (epochs[0] != epochs[1]).any(), "each epoch has an order of its own"


def test_windows_of_a_batch_come_from_all_over_the_epoch(open_text):
    # Concat-and-split without a shuffle of windows would fill a batch with one long document.
    corpus, cfg = open_text([f"{i} " + chr(97 + i % 26) * 600 for i in range(90)])
    letters = {int(np.bincount(row).argmax()) for row in data.train_batch(corpus, cfg, 0).tokens}
    assert len(letters) > 1


@pytest.mark.parametrize("weights", [(3.0, 1.0), (0.2, 0.8)])
def test_mixture_converges_to_the_weights(open_text, weights):
    corpus, cfg = open_text(
        ["a" * 40 + str(i) for i in range(90)],
        ["b" * 70 + str(i) for i in range(90)],
        weights=weights,
    )
    tokens = np.stack([data.train_batch(corpus, cfg, step).tokens for step in range(100)])
    share = (tokens == ord("a")).any(axis=-1).mean()
    # Draws from two sources are off their shares by less than one window of 400.
    np.testing.assert_allclose(share, weights[0] / sum(weights), atol=1 / 400)


def test_without_weights_sources_mix_in_proportion_to_their_tokens(open_text):
    corpus, cfg = open_text(
        ["a" * 40 + str(i) for i in range(90)], ["b" * 40 + str(i) for i in range(270)]
    )
    tokens = np.stack([data.train_batch(corpus, cfg, step).tokens for step in range(100)])
    sizes = [array.num_tokens for array in corpus.train]
    share = (tokens == ord("a")).any(axis=-1).mean()
    np.testing.assert_allclose(share, sizes[0] / sum(sizes), atol=1 / 400 + 0.005)


def test_heldout_batches_cover_all_heldout_bytes_and_pad_the_rest(open_text):
    corpus, cfg = open_text(documents(100), documents(60, 1000), heldout_fraction=0.2)
    batches = data.heldout_batches(corpus, cfg, 1000)
    inputs = sum(int((batch.segment_ids > 0).sum()) for batch in batches)
    assert inputs == sum(array.num_tokens - 1 for array in corpus.heldout)
    num_bytes = sum(float(batch.target_bytes.sum()) for batch in batches)
    assert num_bytes == sum(array.num_bytes for array in corpus.heldout)
    ends = sum(int((batch.targets == corpus.tokenizer.eos_id).sum()) for batch in batches)
    assert ends == sum(array.num_documents for array in corpus.heldout)
    for batch in batches:
        padding = batch.segment_ids == 0
        assert not batch.loss_mask[padding].any() and not batch.tokens[padding].any()


def test_loss_is_masked_exactly_where_the_next_document_begins(open_text):
    corpus, cfg = open_text(documents(100))
    for step in range(5):
        batch = data.train_batch(corpus, cfg, step)
        np.testing.assert_array_equal(
            batch.loss_mask == 0, batch.targets == corpus.tokenizer.bos_id
        )


def test_a_dropped_iterator_stops_its_threads(open_text):
    corpus, cfg = open_text(documents(100))
    before = threading.active_count()
    for _ in range(20):
        next(data.train_batches(corpus, cfg))
    deadline = time.monotonic() + 30  # a thread ends after the read that it is in
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_each_source_has_its_share_of_the_heldout_windows(open_text):
    texts = [[letter * length for length in range(20, 200)] for letter in "ab"]
    corpus, cfg = open_text(*texts)
    source_S = data.heldout_sources(corpus, cfg, 2)
    np.testing.assert_array_equal(np.bincount(source_S), [cfg.batch_size] * 2)
    windows = [row for batch in data.heldout_batches(corpus, cfg, 2) for row in batch.tokens]
    for source, window in zip(source_S, windows, strict=True):
        assert {ord("a"), ord("b")} & set(window.tolist()) == {ord("ab"[source])}
