"""Tokenizers round-trip text, and token_bytes adds up to its UTF-8 length."""

import dataclasses
import itertools
import json

import hypothesis
import numpy as np
import pytest
import tokenizers
from hypothesis import strategies as st
from small_corpora import SMALL, documents, write_jsonl
from tokenizers import decoders, models, pre_tokenizers, processors

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


DEEPSEEK = [f"<\uff5c{word}\u2581of\u2581sentence\uff5c>" for word in ("begin", "end")]


def words(special: list[str], template: str = "") -> str:
    """A tokenizer.json of one word, "a", and special tokens with ids from 1."""
    library = tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    library.add_special_tokens(special)
    if template:
        ids = [(token, library.token_to_id(token)) for token in special]
        library.post_processor = processors.TemplateProcessing(template, special_tokens=ids)
    return library.to_str()


@pytest.mark.parametrize(
    ("special", "template", "expected"),
    [
        (["<|bos|>", "<|eos|>"], "", (1, 2)),
        (["<unk>", "<s>", "</s>"], "", (2, 3)),
        (["<pad>", "<eos>", "<bos>"], "", (3, 2)),
        (["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], "", (1, 2)),
        (["[PAD]", "[BOS]", "[EOS]"], "", (2, 3)),
        (["<|startoftext|>", "<|endoftext|>"], "", (1, 2)),
        (["<|im_start|>", "<|im_end|>", "<|endoftext|>"], "", (3, 3)),
        ([*DEEPSEEK, "<\uff5cUser\uff5c>"], "", (1, 2)),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "[CLS] $A [SEP]", (3, 4)),
        (["start", "stop"], "start $A", (1, 1)),
        (["start", "stop"], "start $A stop", (1, 2)),
        (["</s>", "begin"], "begin $A", (2, 1)),
    ],
)
def test_a_tokenizer_alone_says_its_ends_by_template_and_names(special, template, expected):
    used = tokenizer.from_json(words(special, template), "t")
    assert (used.bos_id, used.eos_id) == expected
    assert used.names_itself


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config.json": {"bos_token": "y", "eos_token": "x"}}, (2, 1)),
        ({"tokenizer_config.json": {"bos_token": None, "eos_token": {"content": "x"}}}, (1, 1)),
        ({"special_tokens_map.json": {"bos_token": {"content": "y"}, "eos_token": "z"}}, (2, 3)),
        ({"config.json": {"bos_token_id": 1, "eos_token_id": [3, 2]}}, (1, 3)),
        (
            {"generation_config.json": {"eos_token_id": 2}, "config.json": {"eos_token_id": 1}},
            (2, 2),
        ),
        ({"tokenizer_config.json": {"eos_token": "x"}, "config.json": {"bos_token_id": 3}}, (3, 1)),
        ({"tokenizer_config.json": {"eos_token": "x"}, "config.json": []}, (1, 1)),
    ],
)
def test_files_beside_a_tokenizer_name_its_ends(tmp_path, files, expected):
    (tmp_path / "tokenizer.json").write_text(words(["x", "y", "z"]))
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8-sig")
    path = write_jsonl(tmp_path / "a.jsonl", ["a" * (20 + i) for i in range(100)])
    cfg = dataclasses.replace(SMALL, paths=(str(path),), tokenizer=str(tmp_path / "tokenizer.json"))
    for _ in range(2):  # the second from the cache, beside which no such file lies
        corpus = data.open_corpus(cfg, tmp_path / "cache")
        assert (corpus.tokenizer.bos_id, corpus.tokenizer.eos_id) == expected
        assert corpus.train[0].read(0, 1)[0] == expected[0]
        assert corpus.train[0].read(0, int(corpus.train[0].ends_N[0]))[-1] == expected[1]
    (tmp_path / "special_tokens_map.json").unlink(missing_ok=True)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "z", "eos_token": "z"}')
    assert data.open_corpus(cfg, tmp_path / "cache").fingerprint != corpus.fingerprint


def test_a_named_end_is_special_even_where_the_tokenizer_does_not_say_so():
    library = tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    library.add_tokens(["stop"])
    used = tokenizer.from_json(library.to_str(), "t", eos="stop")
    assert (used.bos_id, used.eos_id) == (1, 1)
    np.testing.assert_array_equal(used.token_bytes_V, [1, 0])
    np.testing.assert_array_equal(used.encode("astopa"), [0, 0], "spelled in text it is text")
    assert used.encode_marked("astopa") == [0, 1, 0]
    assert used.decode([1, 0, 1]) == "a"


def test_files_that_say_what_the_tokenizer_does_change_no_fingerprint(tmp_path):
    (tmp_path / "tokenizer.json").write_text("\ufeff" + BPE.json, encoding="utf-8")
    path = write_jsonl(tmp_path / "a.jsonl", documents(100))
    cfg = dataclasses.replace(SMALL, paths=(str(path),), tokenizer=str(tmp_path / "tokenizer.json"))
    alone = data.open_corpus(cfg, tmp_path / "cache")
    assert alone.tokenizer.json == BPE.json == tokenizer.from_json("\ufeff" + BPE.json, "t").json
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|eos|>"}')
    assert data.open_corpus(cfg, tmp_path / "cache").fingerprint == alone.fingerprint


def strict_words() -> str:
    library = tokenizers.Tokenizer(models.WordLevel(vocab={"word": 0}, unk_token="<unk>"))
    library.add_special_tokens(["<eos>"])
    return library.to_str()


@pytest.mark.parametrize(
    ("name", "content", "beside", "expected"),
    [
        ("byte", None, "", 'expected "bytes", "bpe" or the path of a tokenizer.json'),
        ("t*.json", None, "", "which cannot be read: "),
        ("t.json", "", "", "can load (EOF while parsing"),
        ("t.json", "{}", "", "no tokenizer.json that the tokenizers library can load"),
        ("t.json", "\0" * 99, "", "line 1: expected UTF-8 text, got a NUL byte"),
        ("t.json", words([]).replace('"a":0', '"a":99999999'), "", "ids below 16,777,216 in "),
        ("t.json", words([]), "", "needs a special token that ends a document, got none; put"),
        (
            "t.json",
            words(["x", "y"]),
            "",
            "ends a document, got 'x', 'y'; put the model's tokenizer_",
        ),
        (
            "t.json",
            words(["x"]),
            '{"eos_token": "w"}',
            "the token 'w', which the files beside it name",
        ),
        ("t.json", words(["x"]), '{"eos_token_id": 9}', "the token 9, which the files beside"),
        ("t.json", words(["x"]), '{"eos_token_id": -1}', "the token -1, which the files beside"),
        ("t.json", words(["x"]), '{"eos_token"', "expected JSON in tokenizer_config.json, got "),
        ("t.json", strict_words(), "", "has no tokens for this text (WordLevel error: Missing"),
    ],
)
def test_unusable_tokenizer_gives_one_line_and_writes_nothing(
    tmp_path, name, content, beside, expected
):
    path = write_jsonl(tmp_path / "a.jsonl", documents(100))
    if content is not None:
        (tmp_path / name).write_text(content)
        name = str(tmp_path / name)
    if beside:
        (tmp_path / "tokenizer_config.json").write_text(beside)
    cfg = dataclasses.replace(SMALL, paths=(str(path),), tokenizer=name)
    with pytest.raises(data.DataError) as caught:
        data.open_corpus(cfg, tmp_path / "cache")
    assert expected in str(caught.value) and str(caught.value).isprintable()
    assert not (tmp_path / "cache").exists()


def test_too_small_a_bpe_vocabulary_is_refused():
    with pytest.raises(data.DataError, match="must be at least 258"):
        tokenizer.train_bpe([b"text"], 100)
