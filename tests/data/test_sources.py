"""What an entry of data.paths may name, and the one clear line for what it may not."""

import dataclasses
import gzip
import json
import os
import re
import zipfile

import fsspec
import numpy as np
import pytest
from small_corpora import SMALL, documents, ipc, lines, parquet, write_jsonl

from kanana_jax import data
from kanana_jax.config import DataConfig
from kanana_jax.data import python_text, sources

TEXTS = ["one\n\ntwo", "d\u00e9j\u00e0 vu \ud55c\uae00", "", "three"]


def read(*paths, **settings) -> list[list[str]]:
    opened = sources.open_sources(DataConfig(paths=tuple(map(str, paths)), **settings))
    return [[document.decode() for document in source.read()] for source in opened]


def test_globs_read_in_sorted_order_and_brackets_may_be_names(tmp_path):
    for name in ("b", "a", "c[1]"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert read(tmp_path / "*.txt") == [["a", "b", "c[1]"]]
    assert read(tmp_path / "c[1].txt") == [["c[1]"]]


def test_files_in_folders_are_found_by_two_stars(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b.txt", "in/a.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "loop").symlink_to(".")
    for pattern in ("**/*.txt", "**"):
        assert read(tmp_path / pattern) == [["b.txt", "in/a.txt"]]


def test_members_of_an_archive_are_named_with_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/a.txt", "one")
        archive.writestr("in/b.txt", "two \udcff".encode("utf-8", "surrogateescape"))
    assert read(f"zip://in/a.txt::{tmp_path}/a.zip") == [["one"]]
    entry = f"zip://in/*.txt::{tmp_path}/a.zip"
    with pytest.raises(data.DataError, match=re.escape(entry.replace("*", "b") + ", line 1")):
        read(entry)


def saved_dataset(folder, texts, **state):
    """A folder as `datasets` 4 writes it: Arrow streams, and a state.json that names them."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-00002.arrow" for i in range(2)]
    for name, part in zip(names, (texts[:2], texts[2:]), strict=True):
        (folder / name).write_bytes(ipc(part))
    state = {"_data_files": [{"filename": name} for name in names], **state}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_a_saved_dataset_is_read_by_what_its_folder_says(tmp_path):
    folder = saved_dataset(tmp_path / "train", TEXTS)
    (folder / "cache-1234.arrow").write_bytes(ipc(["left by a map()"]))
    assert read(folder) == read(f"{folder}/") == read(tmp_path / "tr*") == [TEXTS]


def test_one_file_in_two_sources_is_refused_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").symlink_to("a.txt")
    monkeypatch.chdir(tmp_path)
    for other in ("a.txt", "./a.txt", "*.txt", f"file://{tmp_path}/a.txt", "b.txt"):
        with pytest.raises(data.DataError, match="expected each file in one source, got"):
            read(tmp_path / "a.txt", other)
    assert read("*.txt") == [["a", "a"]], "documents, not files, are told apart within a source"


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.json"])
def test_bad_records_are_left_out_and_counted_when_asked(tmp_path, name):
    (tmp_path / "fine.jsonl").write_bytes(lines(["fine"]))
    texts = ["one", None, "t\0o", "th\0ee", "four"]
    records = [{"text": text} for text in texts]
    content = {
        "a.jsonl": lines(texts),
        "a.json": json.dumps(records).encode(),
        "a.parquet": parquet(texts),
    }[name]
    (tmp_path / name).write_bytes(content)
    cfg = DataConfig(paths=(str(tmp_path / "*"),), skip_bad_lines=True)
    (source,) = sources.open_sources(cfg)
    for _ in range(2):
        assert list(source.read()) == [b"one", b"", b"four", b"fine"]
        assert source.skipped.count == 2
    assert source.skipped.first.startswith(f"{tmp_path}/{name}, ")
    with pytest.raises(data.DataError) as caught:
        read(tmp_path / "*")
    assert str(caught.value) == source.skipped.first


def test_a_damaged_file_is_no_bad_line(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS))[:-4])
    assert "cannot be read: EOFError" in error_of(tmp_path, "a.jsonl.gz", skip_bad_lines=True)


def test_skipping_everything_is_an_error_that_says_why(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(TEXTS))
    message = error_of(tmp_path, "a.jsonl", skip_bad_lines=True, text_field="body")
    assert "expected text, got none; 4 line(s) left out, the first: " in message
    assert "line 1: expected the key 'body', got 'id', 'text'" in message


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
    paths = list(python_text._module_paths(python_text._root()))
    assert not any({"test", "site-packages", "encodings"} & set(p.parts[-3:-1]) for p in paths)


def bad_utf8(path):
    path.write_bytes(b"good \xff\xfe bad")


def line(text):
    return lambda path: path.write_text(text)


def dictionary(path):
    saved_dataset(path / "train", TEXTS)
    (path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("absent.txt", None, "does not exist"),
        ("none-*.txt", None, "matches no file"),
        ("dir.txt", lambda path: path.mkdir(), "expected a file, got the directory"),
        ("d*r.txt", lambda path: path.with_name("dir.txt").mkdir(), "/dir.txt'; give a pattern"),
        ("set", dictionary, "expected one split of a dataset, got "),
        ("set", dictionary, "with 'train', 'test'; give "),
        (
            "set",
            lambda path: saved_dataset(path, TEXTS, _indices_data_files=[{}]),
            "flatten_indices",
        ),
        ("pipe.txt", os.mkfifo, "which can be read only once"),
        ("dead.txt", lambda path: path.symlink_to("nowhere"), "does not exist"),
        ("*.txt", lambda path: path.with_name("b.txt").symlink_to("c"), "b.txt' does not exist"),
        ("loop.txt", lambda path: path.symlink_to("loop.txt"), "does not exist"),
        ("a.txt/b.txt", lambda path: path.parent.write_text("a"), "does not exist"),
        ("a.txt", line("x\0"), "a.txt, line 1: expected UTF-8 text, got a NUL byte"),
        ("folder/" * 400 + "a.txt", None, "does not exist"),
        ("a.csv", line("a,b"), "expected a file ending in .txt, .md"),
        ("*", line("a,b"), "expected a file ending in .txt, .md"),
        ("a.txt", bad_utf8, "line 1: expected UTF-8 text"),
        ("a.jsonl", bad_utf8, "line 1: expected UTF-8 text"),
        ("a.txt", line(" \n "), "expected text, got none"),
        ("a.jsonl", line(""), "expected text, got none"),
        ("a.jsonl", line("{}\n" * 9), "line 1: expected the key 'text', got none"),
        ("a.jsonl", line(json.dumps(dict.fromkeys(map(str, range(500))))), "'9' and 490 more"),
        ("a.jsonl", line(json.dumps({"k" * 5000: 1})), "got 'kkkk"),
        ("a.parquet", line("no parquet"), "cannot be read: ArrowInvalid"),
        ("a.txt", line("too short"), "expected distinct text for a training and a held-out part"),
        ("a.txt", line("still too short" * 5), "expected at least "),
    ],
)
def test_unusable_text_gives_one_line_and_writes_nothing(tmp_path, name, make, expected):
    if make:
        make(tmp_path / name)
    assert expected in error_of(tmp_path, name)


@pytest.mark.parametrize(
    "entry",
    [
        "zip://a.txt::/nowhere/missing.zip",
        "zip://*.txt::/nowhere/missing.zip",
        "zip://a.txt::/",
        "simplecache::zip://a.txt::/nowhere/missing.zip",
        "nosuch://a.txt",
        "memory://nowhere/a.txt",
        "::",
        "zip://",
        "[",
    ],
)
def test_urls_that_lead_nowhere_give_one_line_that_names_them(tmp_path, entry):
    assert ascii(entry)[1:-1].replace("\\", "") in error_of(tmp_path, entry).replace("\\", "")


def test_errors_of_a_remote_file_system_are_one_line(tmp_path, monkeypatch):
    with fsspec.open("memory://remote/a.txt", "wb") as file:
        file.write(b"text")

    def refuse(*args, **kwargs):
        raise RuntimeError("403 Forbidden\n<html>" + "x" * 5000)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "_open", refuse)
    message = error_of(tmp_path, "memory://remote/a.txt")
    assert "memory://remote/a.txt: cannot be read: RuntimeError: 403 Forbidden; check" in message


@pytest.mark.parametrize("path", ["gs://bucket/a.txt", "s3://bucket/a.txt"])
def test_missing_driver_is_named(tmp_path, path, monkeypatch):
    def refuse(protocol):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec.core, "get_filesystem_class", refuse)
    assert "Please install gcsfs; check the path, install the package" in error_of(tmp_path, path)


def test_python_without_sources_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(python_text, "_root", lambda: tmp_path)
    with pytest.raises(data.DataError, match="this Python carries no sources"):
        data.open_corpus(DataConfig(), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def error_of(tmp_path, name: str, **settings) -> str:
    path = name if ":" in name else str(tmp_path / name)
    cfg = dataclasses.replace(SMALL, paths=(path,), **settings)
    with pytest.raises(data.DataError) as caught:
        data.open_corpus(cfg, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    message = str(caught.value)
    assert message.isprintable() and len(message) < 900
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
    with pytest.raises(data.DataError, match="and 490 more") as caught:
        read(path)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_a_stream_is_a_source_beside_files(tmp_path):
    path = write_jsonl(tmp_path / "file.jsonl", documents(60))
    cfg = dataclasses.replace(SMALL, paths=("made", str(path)), weights=(0.5, 0.5))
    streams = {"made": lambda: (f"made up {n}".encode() for n in range(100))}
    text = data.read_text(cfg, tmp_path / "cache", streams=streams)
    corpus = text.open()
    assert corpus.names == ("made", str(path))
    made = corpus.train[0].read(0, corpus.train[0].num_tokens)
    assert bytes(made[made < 256].astype("uint8")).startswith(b"made up ")
    with pytest.raises(data.DataError, match="'made' does not exist"):
        data.read_text(cfg, tmp_path / "cache")


@pytest.mark.long
def test_code_and_prose_of_python_share_no_docstring():
    code = b"\n".join(python_text.read_code())
    prose = list(python_text.read_prose())
    assert len(prose) > 1000 and all(len(text) >= 200 for text in prose[:1000])
    found = [text for text in prose[:1000] if text in code]
    # What is left is text that stands in a module twice, once as a docstring.
    assert len(found) < 10


def test_packages_are_a_source_by_name(tmp_path, monkeypatch):
    """Modules of both folders, without tests, large tables, and what holds a machine's paths."""
    kept = {
        "pure/one/__init__.py": b"x = 1\n",
        "pure/one/two.py": "y = '\ud55c'\n".encode(),
        "plat/three.py": b"# \xe9\n",
    }
    left_out = {
        "pure/one/tests/test_two.py": b"z = 1\n",
        "pure/one/table.py": b"t = 1\n" * 50_000,
        "pure/__editable___one_finder.py": b"'/home'\n",
    }
    for name, content in (kept | left_out).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "pure/one/gone.py").symlink_to(tmp_path / "nowhere")
    folders = {"purelib": tmp_path / "pure", "platlib": tmp_path / "plat"}
    monkeypatch.setattr(python_text.sysconfig, "get_path", lambda name: str(folders[name]))
    (source,) = sources.open_sources(dataclasses.replace(SMALL, paths=("python:packages",)))
    read = list(source.read())
    wanted = [one.decode(errors="replace").encode() for one in kept.values()]
    assert sorted(read) == sorted(wanted) and read == list(source.read())
    for name in kept:
        (tmp_path / name).unlink()
    with pytest.raises(data.DataError, match=r"expected the \.py files of packages"):
        list(python_text.read_packages())
