"""Tokenizers round-trip text, and token_bytes adds up to its UTF-8 length."""

import dataclasses
import itertools

import hypothesis
import numpy as np
import pytest
import tokenizers
from hypothesis import strategies as st
from small_corpora import SMALL, documents, write_jsonl
from tokenizers import decoders, models, pre_tokenizers

from kanana_jax import data
from kanana_jax.data import tokenizer

BPE = tokenizer.train_bpe([text.encode() for text in documents(200)], 300)


@pytest.mark.parametrize("used", [tokenizer.byte_tokenizer(), BPE], ids=["bytes", "bpe"])
@hypothesis.given(text=st.text() | st.sampled_from(["<|bos|> <|eos|>", "\r\n\t \u00a0", "\ud55c"]))
@hypothesis.settings(deadline=None, max_examples=100)
def test_text_round_trips_and_token_bytes_sum_to_its_length(used, text):
    ids = used.encode(text)
    assert used.decode(ids) == text
    assert used.token_bytes_V[ids].sum() == len(text.encode())
    (document,) = used.encode_documents([text.encode()])
    np.testing.assert_array_equal(document, [used.bos_id, *ids, used.eos_id])
    assert used.token_bytes_V[document].sum() == len(text.encode())
    assert len(used.token_bytes_V) == used.vocab_size > document.max()


def test_training_bpe_twice_gives_the_same_tokenizer():
    texts = [text.encode() for text in documents(200)]
    assert tokenizer.train_bpe(texts, 300).json == BPE.json
    assert BPE.vocab_size == 300


def test_bpe_is_trained_once_and_then_cached(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", documents(100))
    cfg = dataclasses.replace(SMALL, paths=(str(path),), tokenizer="bpe", bpe_vocab_size=280)
    first = data.open_corpus(cfg, tmp_path / "cache")
    monkeypatch.setattr(tokenizer, "train_bpe", None)
    second = data.open_corpus(cfg, tmp_path / "cache")
    assert first.fingerprint == second.fingerprint
    assert first.vocab_size == second.vocab_size == 280
    heldout = data.heldout_batches(second, cfg, 1000)
    num_bytes = sum(batch.target_bytes.sum() for batch in heldout)
    assert num_bytes == sum(array.num_bytes for array in second.heldout)


def test_bpe_learns_from_training_text_only(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", documents(100))
    cfg = dataclasses.replace(SMALL, paths=(str(path),), tokenizer="bpe", bpe_vocab_size=400)
    corpus = data.open_corpus(cfg, tmp_path / "cache")
    ends = [0, *corpus.train[0].ends_N.tolist()]
    train = [
        corpus.tokenizer.decode(corpus.train[0].read(begin, end)).encode()
        for begin, end in itertools.pairwise(ends)
    ]
    everything = [text.encode() for text in documents(100)]
    assert corpus.tokenizer.json == tokenizer.train_bpe(train, 400).json
    assert corpus.tokenizer.json != tokenizer.train_bpe(everything, 400).json


def test_huggingface_file_gives_the_same_corpus_as_its_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text(BPE.json)
    path = write_jsonl(tmp_path / "a.jsonl", documents(100))
    cfg = dataclasses.replace(SMALL, paths=(str(path),), tokenizer=str(tmp_path / "tokenizer.json"))
    corpus = data.open_corpus(cfg, tmp_path / "cache")
    assert corpus.vocab_size == BPE.vocab_size
    text = corpus.tokenizer.decode(corpus.train[0].read(1, int(corpus.train[0].ends_N[0]) - 1))
    assert text in documents(100)


def test_sentencepiece_vocabulary_counts_spaces_and_byte_tokens():
    vocab = {"<unk>": 0, "\u2581": 1, "a": 2, "\u2581a": 3, "<0x0A>": 4, "\u00e9": 5}
    library = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("\u2581", "a")]))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    library.add_special_tokens(["<s>", "</s>"])
    loaded = tokenizer.from_json(library.to_str(), "t")
    np.testing.assert_array_equal(loaded.token_bytes_V, [5, 1, 1, 2, 1, 2, 0, 0])
    assert (loaded.bos_id, loaded.eos_id) == (6, 7)


def test_one_special_token_serves_at_both_ends():
    library = tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    library.add_special_tokens(["<|endoftext|>"])
    loaded = tokenizer.from_json(library.to_str(), "t")
    assert loaded.bos_id == loaded.eos_id == 1


def no_special_token() -> str:
    return tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).to_str()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("byte", None, 'expected "bytes", "bpe" or the path of a tokenizer.json'),
        ("t.json", "{}", "no tokenizer.json that the tokenizers library can load"),
        ("t.json", no_special_token(), "needs a special token that ends a document"),
    ],
)
def test_unusable_tokenizer_gives_one_line_and_writes_nothing(tmp_path, name, content, expected):
    path = write_jsonl(tmp_path / "a.jsonl", documents(100))
    if content:
        (tmp_path / name).write_text(content)
        name = str(tmp_path / name)
    cfg = dataclasses.replace(SMALL, paths=(str(path),), tokenizer=name)
    with pytest.raises(data.DataError) as caught:
        data.open_corpus(cfg, tmp_path / "cache")
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_too_small_a_bpe_vocabulary_is_refused():
    with pytest.raises(data.DataError, match="must be at least 258"):
        tokenizer.train_bpe([b"text"], 100)
