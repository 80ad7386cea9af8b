"""The whole way from files to a corpus."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from small_corpora import SMALL, documents, write_jsonl

from kanana_jax import data
from kanana_jax.config import DataConfig


def test_a_single_text_file_is_enough(tmp_path):
    path = tmp_path / "some.txt"
    path.write_text("".join(f"Line {i} of a short book.\n\n" for i in range(2000)))
    cfg = DataConfig(paths=(str(path),))
    corpus = data.open_corpus(cfg, tmp_path / "cache")
    assert corpus.train[0].num_bytes + corpus.heldout[0].num_bytes == path.stat().st_size
    assert 0 < corpus.heldout[0].num_bytes < 0.3 * path.stat().st_size
    assert data.train_batch(corpus, cfg, 0).tokens.shape == (8, 256)
    assert data.heldout_batches(corpus, cfg, 1)[0].loss_mask.any()


def test_default_corpus_opens_and_is_split_by_document(tmp_path):
    cfg = DataConfig(max_bytes=4_000_000)
    corpus = data.open_corpus(cfg, tmp_path)
    assert corpus.vocab_size == 258
    assert corpus.train[0].num_documents > 100
    assert corpus.train[0].num_bytes + corpus.heldout[0].num_bytes <= 4_000_000
    assert "bytes per token" in corpus.describe()


def test_a_document_of_many_windows_restarts_positions_and_keeps_its_text(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [f"{i} " + "x" * 100 for i in range(90)])
    cfg = dataclasses.replace(SMALL, paths=(str(path),))
    corpus = data.open_corpus(cfg, tmp_path / "cache")
    batch = data.train_batch(corpus, cfg, 3)
    assert (batch.positions[:, 0] == 0).all() and (batch.segment_ids[:, 0] == 1).all()
    new = np.diff(batch.segment_ids, axis=1) == 1
    np.testing.assert_array_equal(batch.positions[:, 1:] == 0, new)
    np.testing.assert_array_equal(batch.tokens[:, 1:] == corpus.tokenizer.bos_id, new)


def test_the_same_text_twice_is_one_source_too_many(tmp_path):
    paths = [str(write_jsonl(tmp_path / name, documents(100))) for name in ("a.jsonl", "b.jsonl")]
    cfg = dataclasses.replace(SMALL, paths=tuple(paths))
    with pytest.raises(data.DataError, match="got 0 after removing duplicate and held-out text"):
        data.open_corpus(cfg, tmp_path / "cache")


def test_lines_left_out_are_told_and_counted_and_change_nothing_else(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", documents(100))
    cfg = dataclasses.replace(SMALL, paths=(str(path),), skip_bad_lines=True)
    clean = data.open_corpus(cfg, tmp_path / "cache")
    path.write_text("{\n" + path.read_text() + "5\n")
    for _ in range(2):  # the second from the cache
        told = []
        corpus = data.open_corpus(cfg, tmp_path / "cache", told.append)
        assert (corpus.num_skipped, clean.num_skipped) == (2, 0)
        assert corpus.fingerprint == clean.fingerprint
        (line,) = told
        assert "2 line(s) left out, the first: " in line and "line 1: expected a JSON" in line


def test_import_loads_no_library_that_only_some_inputs_need():
    code = (
        "import kanana_jax.data, sys; "
        "print([m for m in ('pyarrow', 'tokenizers', 'fsspec') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
