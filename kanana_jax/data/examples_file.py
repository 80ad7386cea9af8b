"""Tokenized examples in one file of the cache, checked when it is read.

It is a zip of numpy arrays and a header in JSON, written under another name and renamed when
complete.
"""

import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from kanana_jax.data import cache_files, whole_files
from kanana_jax.data import tokenizer as tokenizers
from kanana_jax.data.errors import DataError, StoreError, first_line
from kanana_jax.data.whole_documents import Examples

FORMAT = 2
_ARRAYS = ("tokens_T", "origin_T", "ends_G", "source_N", "is_heldout_N")


def fingerprint(examples: Examples, tokenizer: tokenizers.Tokenizer) -> str:
    """Equal if and only if every token, target, end, source, side and the tokenizer are."""
    total = hashlib.blake2b(tokenizer.digest.encode(), digest_size=16)
    for name in _ARRAYS:
        array = getattr(examples, name)
        total.update(f" {name} {array.dtype.str} {array.size} ".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def save(path: pathlib.Path, examples: Examples, tokenizer: tokenizers.Tokenizer) -> None:
    """Writes the file, unless it is there; DataError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with cache_files.locked(path):
            # Another process may have written it while this one waited for the lock.
            if not _is_whole(path):
                _write(path, examples, tokenizer)
    except OSError as error:
        raise DataError(
            f"data.cache_dir: cannot write {path}: {first_line(error)}; free space or set "
            "data.cache_dir to a folder that can be written."
        ) from error


def _write(path: pathlib.Path, examples: Examples, tokenizer: tokenizers.Tokenizer) -> None:
    header = {
        "format": FORMAT,
        "fingerprint": fingerprint(examples, tokenizer),
        "tokenizer": tokenizer.json,
        "special_ids": [tokenizer.bos_id, tokenizer.eos_id],
    }
    arrays = {name: getattr(examples, name) for name in _ARRAYS}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    # Whoever left an unfinished file held the lock, so it is dead.
    with whole_files.replaced(path) as unfinished, open(unfinished, "wb") as file:
        np.savez(file, **arrays)


def _is_whole(path: pathlib.Path) -> bool:
    try:
        load(path)
    except StoreError:
        return False
    return True


def load(path: pathlib.Path) -> tuple[Examples, tokenizers.Tokenizer]:
    """Reads the file. StoreError if anything differs from what was written."""
    try:
        return _load(path)
    except Exception as error:  # damaged zips and headers fail in too many ways to list
        raise StoreError(f"token file {path} is damaged: {first_line(error)}") from error


def _load(path: pathlib.Path) -> tuple[Examples, tokenizers.Tokenizer]:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
        header: dict[str, Any] = json.loads(content["header"].tobytes())
        arrays = {name: content[name] for name in _ARRAYS}
    _expect("format", header["format"], FORMAT)
    bos, eos = header["special_ids"]
    tokenizer = (
        tokenizers.from_json(header["tokenizer"], str(path), bos=bos, eos=eos)
        if header["tokenizer"]
        else tokenizers.byte_tokenizer()
    )
    examples = Examples(**arrays)
    _expect("fingerprint", fingerprint(examples, tokenizer), header["fingerprint"])
    return examples, tokenizer


def _expect(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise StoreError(f"expected {what} {expected}, got {got}")
