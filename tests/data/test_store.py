"""The token store: written whole or not at all, and never silently different."""

import dataclasses
import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from small_corpora import SMALL, documents, write_jsonl

from kanana_jax import data
from kanana_jax.data import cache_files, split, store, tokenizer, zarr_arrays


def write(path: pathlib.Path, texts: list[str], used=None) -> pathlib.Path:
    pieces = [(0, split.Piece(text.encode(), i % 10 == 0)) for i, text in enumerate(texts)]
    path.mkdir()
    store.write_store(path, pieces, 1, used or tokenizer.byte_tokenizer(), "text")
    return path


def content(opened: store.Store) -> list[object]:
    arrays = [*opened.train, *opened.heldout]
    return [
        opened.tokenizer.json,
        opened.fingerprint,
        *(array.read(0, array.num_tokens).tolist() for array in arrays),
        *(array.ends_N.tolist() for array in arrays),
        *(array.num_bytes for array in arrays),
    ]


def files(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("memory_bytes", [0, 2**30], ids=["slices", "memory"])
def test_store_gives_back_the_documents(tmp_path, memory_bytes, monkeypatch):
    monkeypatch.setattr(zarr_arrays, "_SHARD", 512)
    monkeypatch.setattr(zarr_arrays, "_CHUNK", 64)
    texts = documents(100)
    opened = store.open_store(write(tmp_path / "s", texts), memory_bytes)
    ends = [0, *opened.train[0].ends_N.tolist()]
    decoded = [
        opened.tokenizer.decode(opened.train[0].read(a, b)) for a, b in itertools.pairwise(ends)
    ]
    assert decoded == [text for i, text in enumerate(texts) if i % 10]
    assert opened.train[0].num_bytes == sum(len(text.encode()) for text in decoded)
    assert len(files(tmp_path / "s")) > 12, "several shards"
    assert isinstance(opened.train[0].tokens, np.ndarray) == (memory_bytes > 0)


def damage_flip(file: pathlib.Path):
    raw = bytearray(file.read_bytes())
    for place in np.linspace(0, len(raw) - 1, 24).astype(int):
        for bit in (0, 5):
            raw[place] ^= 1 << bit
            file.write_bytes(raw)
            yield
            raw[place] ^= 1 << bit
    file.write_bytes(raw)


def damage_truncate(file: pathlib.Path):
    raw = file.read_bytes()
    for size in (0, len(raw) // 2, len(raw) - 1):
        file.write_bytes(raw[:size])
        yield
    file.write_bytes(raw)


def damage_delete(file: pathlib.Path):
    raw = file.read_bytes()
    file.unlink()
    yield
    file.write_bytes(raw)


@pytest.mark.parametrize("damage", [damage_flip, damage_truncate, damage_delete])
@pytest.mark.parametrize("memory_bytes", [0, 2**30], ids=["slices", "memory"])
def test_damage_to_any_file_is_detected_or_harmless(tmp_path, damage, memory_bytes):
    used = tokenizer.train_bpe([text.encode() for text in documents(50)], 270)
    path = write(tmp_path / "s", documents(50), used)
    whole = content(store.open_store(path))
    detected = 0
    for file in files(path):
        for _ in damage(file):
            try:
                assert content(store.open_store(path, memory_bytes)) == whole, file
            except data.StoreError as error:
                assert "\n" not in str(error) and str(path) in str(error)
                detected += 1
    assert detected >= len(files(path))


def test_intact_file_of_another_store_is_detected(tmp_path):
    first = write(tmp_path / "first", ["aaa", "bbbb", "cc"])
    other = write(tmp_path / "other", ["aaa", "bbxb", "cc"])
    shutil.copy(other / "0-train-tokens/c/0", first / "0-train-tokens/c/0")
    with pytest.raises(data.StoreError, match="expected checksum"):
        store.open_store(first)


def test_damaged_store_is_reported_and_rebuilt_with_the_same_tokens(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", documents(100))
    cfg = dataclasses.replace(SMALL, paths=(str(path),))
    first = data.open_corpus(cfg, tmp_path / "cache")
    (folder,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
    (folder / "0-train-tokens" / "c" / "0").write_bytes(b"junk")
    lines: list[str] = []
    second = data.open_corpus(cfg, tmp_path / "cache", lines.append)
    (line,) = lines
    assert "damaged" in line and "built anew" in line
    assert first.fingerprint == second.fingerprint
    lines.clear()
    data.open_corpus(cfg, tmp_path / "cache", lines.append)
    assert lines == []


def test_changed_text_gets_another_store_and_fingerprint(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", documents(100))
    cfg = dataclasses.replace(SMALL, paths=(str(path),))
    first = data.open_corpus(cfg, tmp_path / "cache")
    write_jsonl(path, [*documents(99), "documenT 99"])
    second = data.open_corpus(cfg, tmp_path / "cache")
    assert first.fingerprint != second.fingerprint
    moved = write_jsonl(tmp_path / "b.jsonl", documents(100))
    third = data.open_corpus(dataclasses.replace(cfg, paths=(str(moved),)), tmp_path / "cache")
    assert first.fingerprint == third.fingerprint, "the name of a file is not its content"


def test_text_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", documents(100))
    cfg = dataclasses.replace(SMALL, paths=(str(path),))
    real = store.write_store

    def write_store(folder, pieces, *rest):
        write_jsonl(path, documents(100, 7))
        real(folder, pieces, *rest)

    monkeypatch.setattr(store, "write_store", write_store)
    with pytest.raises(data.DataError, match="changed while it was read"):
        data.open_corpus(cfg, tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]


KILLED = """
    import os, pathlib, signal, sys
    from kanana_jax import data
    from kanana_jax.data import zarr_arrays
    from kanana_jax.config import DataConfig

    real, left = zarr_arrays.Writer.close, [int(sys.argv[3])]

    def close(writer):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return real(writer)

    zarr_arrays.Writer.close = close
    cfg = DataConfig(paths=(sys.argv[1],), seq_len=16, batch_size=4, heldout_fraction=0.1)
    data.open_corpus(cfg, pathlib.Path(sys.argv[2]))
"""


def test_a_kill_while_writing_leaves_nothing_that_is_trusted(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", documents(100))
    cfg = dataclasses.replace(SMALL, paths=(str(path),))
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(path), str(cache), "2"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert [p.name[0] for p in cache.iterdir() if p.is_dir()] == ["."], "only a temporary folder"
    corpus = data.open_corpus(cfg, cache)
    assert corpus.fingerprint == data.open_corpus(cfg, tmp_path / "other").fingerprint
    assert not [p for p in cache.iterdir() if p.name.startswith(".")], "leftovers are removed"


def test_failed_write_leaves_no_folder_and_one_line(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", documents(100))
    cfg = dataclasses.replace(SMALL, paths=(str(path),))

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(store, "write_store", full)
    with pytest.raises(data.DataError, match=r"cannot write the token store .*No space left"):
        data.open_corpus(cfg, tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]


def test_cache_dir_that_is_a_file_is_one_clear_line(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", documents(100))
    (tmp_path / "cache").write_text("")
    with pytest.raises(data.DataError, match=r"data.cache_dir: cannot write"):
        data.open_corpus(dataclasses.replace(SMALL, paths=(str(path),)), tmp_path / "cache")


def test_store_built_by_another_process_meanwhile_is_used(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", documents(100))
    cfg = dataclasses.replace(SMALL, paths=(str(path),))
    data.open_corpus(cfg, tmp_path / "ready")
    real = cache_files.locked

    def locked(target):
        shutil.copytree(tmp_path / "ready", tmp_path / "cache", dirs_exist_ok=True)
        return real(target)

    monkeypatch.setattr(cache_files, "locked", locked)
    monkeypatch.setattr(store, "write_store", None)
    data.open_corpus(cfg, tmp_path / "cache")
