"""Every file format gives the same documents, and every bad one a single clear line."""

import dataclasses
import gzip
import json

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from small_corpora import SMALL, write_jsonl

from kanana_jax import data
from kanana_jax.config import DataConfig
from kanana_jax.data import python_text, sources

TEXTS = ["one\n\ntwo", "d\u00e9j\u00e0 vu \ud55c\uae00", "", "three"]


def read(*paths, **settings) -> list[list[str]]:
    opened = sources.open_sources(DataConfig(paths=tuple(map(str, paths)), **settings))
    return [[document.decode() for document in source.read()] for source in opened]


def write(path, texts):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".jsonl":
        path.write_text(lines)
    else:
        path.write_text(texts[0], encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "A.JSONL"])
def test_files_of_records_give_one_document_each(tmp_path, name):
    path = tmp_path / name
    write(path if name.islower() else path.with_suffix(".jsonl"), TEXTS)
    if not name.islower():
        path.with_suffix(".jsonl").rename(path)
    assert read(path) == [TEXTS]


@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_plain_files_are_one_document(tmp_path, name):
    assert read(write(tmp_path / name, [TEXTS[1]])) == [[TEXTS[1]]]


def test_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read(tmp_path / "a.txt") == [["hello"]]


def test_globs_read_in_sorted_order_and_brackets_may_be_names(tmp_path):
    for name in ("b", "a", "c[1]"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert read(tmp_path / "*.txt") == [["a", "b", "c[1]"]]
    assert read(tmp_path / "c[1].txt") == [["c[1]"]]


def test_other_text_field_and_null(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "x"}\n\n{"body": null}\n')
    assert read(path, text_field="body") == [["x", ""]]


def test_remote_paths_go_through_fsspec():
    with fsspec.open("memory://folder/a.txt", "wb") as file:
        file.write(b"far away")
    assert read("memory://folder/*.txt") == [["far away"]]


def test_max_bytes_cuts_between_characters(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["abc", "\u00e9\u00e9\u00e9", "never"])
    assert read(path, max_bytes=6) == [["abc", "\u00e9"]]


def test_default_corpus_is_large_sorted_text_without_tests_or_generated_tables():
    documents = list(python_text.read_documents())
    assert 5e6 < sum(map(len, documents)) < 30e6
    assert documents == list(python_text.read_documents())
    paths = list(python_text._module_paths())
    assert not any({"test", "site-packages", "encodings"} & set(p.parts[-3:-1]) for p in paths)


def bad_utf8(path):
    path.write_bytes(b"good \xff\xfe bad")


def cut_gzip(path):
    path.write_bytes(gzip.compress(b'{"text": "' + b"x" * 999 + b'"}')[:-12])


def line(text):
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("absent.txt", None, "does not exist"),
        ("none-*.txt", None, "matches no file"),
        ("dir.txt", lambda path: path.mkdir(), "expected a file, got the directory"),
        ("a.csv", line("a,b"), "expected a file ending in .txt, .md"),
        ("a.txt", bad_utf8, "expected UTF-8 text"),
        ("a.jsonl", bad_utf8, "expected UTF-8 text"),
        ("a.txt", line(" \n "), "expected text, got none"),
        ("a.jsonl", line(""), "expected text, got none"),
        ("a.jsonl", line('{"text": "x"'), "line 1: expected one JSON object per line"),
        ("a.jsonl", line('{"text": "x"}\n[1]'), "line 2: expected a JSON object, got list"),
        ("a.jsonl", line('{"body": "x"}'), "expected the key 'text', got 'body'"),
        ("a.jsonl", line('{"text": 5}'), "expected a string in 'text', got int"),
        ("a.jsonl", line('{"text": "\\ud800"}'), "expected UTF-8 text"),
        ("a.jsonl.gz", cut_gzip, "cannot be read: EOFError"),
        ("a.parquet", line("no parquet"), "cannot be read: ArrowInvalid"),
        ("a.txt", line("too short"), "expected at least"),
    ],
)
def test_unusable_text_gives_one_line_and_writes_nothing(tmp_path, name, make, expected):
    if make:
        make(tmp_path / name)
    assert expected in error_of(tmp_path, str(tmp_path / name))


def test_parquet_without_the_column_names_those_it_has(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "a.parquet")
    got = error_of(tmp_path, str(tmp_path / "a.parquet"))
    assert "expected the column 'text', got 'body'" in got


@pytest.mark.parametrize("path", ["gs://bucket/a.txt", "s3://bucket/a.txt"])
def test_missing_driver_is_named(tmp_path, path, monkeypatch):
    def refuse(protocol):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec.core, "get_filesystem_class", refuse)
    assert "Install the package for this protocol" in error_of(tmp_path, path)


def test_unknown_protocol_is_an_error(tmp_path):
    assert "Protocol not known" in error_of(tmp_path, "nosuch://a.txt")


def test_python_without_sources_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(python_text, "_root", lambda: tmp_path)
    with pytest.raises(data.DataError, match="this Python carries no sources"):
        data.open_corpus(DataConfig(), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def error_of(tmp_path, path, **settings) -> str:
    cfg = dataclasses.replace(SMALL, paths=(path,), **settings)
    with pytest.raises(data.DataError) as caught:
        data.open_corpus(cfg, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_text_shorter_than_a_batch_is_refused_with_the_number_needed(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [f"some text {i}" for i in range(90)])
    message = error_of(tmp_path, str(path), batch_size=500)
    assert f"batch_size * seq_len + 1 = {500 * 16 + 1}" in message
    cfg = dataclasses.replace(SMALL, paths=(str(path),))
    corpus = data.open_corpus(cfg, tmp_path / "cache")
    assert corpus.names == (str(path),)
    assert np.asarray(data.train_batch(corpus, cfg, 0).tokens).shape == (4, 16)


def test_a_line_of_many_wrong_keys_is_one_short_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({f"key {number}": "" for number in range(500)}))
    with pytest.raises(data.DataError, match="and 495 more") as caught:
        read(path)
    assert len(str(caught.value)) < 400 + len(str(path))
