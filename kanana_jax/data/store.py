"""Token store: zarr3 arrays written once by TensorStore, checked each time they are opened.

    <store>/manifest.json                      lengths and checksums, itself checksummed
    <store>/tokenizer.json                     empty for the byte tokenizer
    <store>/<source>-<train|heldout>-tokens/   all documents of one side, one after another
    <store>/<source>-<train|heldout>-ends/     where each of them ends, in tokens

A store is written under a temporary name and renamed when complete, so a store that exists was
complete. Chunks carry a crc32c and a missing chunk is an error rather than zeros. Arrays up to
1 GiB are read into memory and compared with the manifest when opened; longer ones are read
slice by slice, each slice checked by the crc32c of its chunk.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore
from jaxtyping import Int64, Shaped

from kanana_jax.data import tokenizer as tokenizers
from kanana_jax.data import zarr_arrays
from kanana_jax.data.errors import StoreError
from kanana_jax.data.split import Piece

FORMAT = 1
_SIDES = ("train", "heldout")
_MEMORY_BYTES = 2**30
_BATCH_DOCUMENTS = 64


@dataclass(frozen=True, kw_only=True)
class TokenArray:
    """The documents of one side of one source, end to end: document d is [ends[d-1], ends[d])."""

    tokens: Any  # a numpy array, or a TensorStore when too long for memory
    ends_N: Int64[np.ndarray, "N"]
    num_bytes: int  # UTF-8 bytes of the text
    path: str

    @property
    def num_tokens(self) -> int:
        return int(self.ends_N[-1]) if len(self.ends_N) else 0

    @property
    def num_documents(self) -> int:
        return len(self.ends_N)

    def read(self, begin: int, end: int) -> Shaped[np.ndarray, "T"]:
        """Tokens [begin, end). StoreError if the data on disk is damaged."""
        try:
            return np.asarray(self.tokens[begin:end])
        except ValueError as error:
            damaged = _damaged(self.path, error)
            raise StoreError(f"{damaged}; run the same command again, it is rebuilt") from error


@dataclass(frozen=True, kw_only=True)
class Store:
    """An opened store: the tokenizer and, per source, the training and held-out tokens."""

    tokenizer: tokenizers.Tokenizer
    train: tuple[TokenArray, ...]
    heldout: tuple[TokenArray, ...]
    fingerprint: str  # of the text, the tokenizer and every token


def write_store(
    path: pathlib.Path,
    pieces: Iterable[tuple[int, Piece]],
    num_sources: int,
    tokenizer: tokenizers.Tokenizer,
    text: str,
) -> None:
    """Writes the pieces, in order, into the folder `path`; `text` identifies them."""
    sides = {
        (index, side): _SideWriter(path / f"{index}-{side}", tokenizer)
        for index in range(num_sources)
        for side in _SIDES
    }
    for index, piece in pieces:
        sides[index, _SIDES[piece.is_heldout]].add(piece.text)
    manifest = {
        "format": FORMAT,
        "text": text,
        "tokenizer": tokenizer.digest,
        "num_sources": num_sources,
        "arrays": {f"{index}-{side}": side_.close() for (index, side), side_ in sides.items()},
    }
    if not tokenizer.names_itself:
        manifest["special_ids"] = [tokenizer.bos_id, tokenizer.eos_id]
    (path / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    sealed = {**manifest, "checksum": zarr_arrays.checksum(manifest)}
    (path / "manifest.json").write_text(json.dumps(sealed, indent=1), encoding="utf-8")


def open_store(path: pathlib.Path, memory_bytes: int = _MEMORY_BYTES) -> Store:
    """Opens and verifies a store. StoreError if anything differs from what was written."""
    try:
        return _open(path, memory_bytes)
    except StoreError:
        raise
    except Exception as error:  # damaged JSON and zarr metadata fail in too many ways to list
        raise _damaged(str(path), error) from error


def _open(path: pathlib.Path, memory_bytes: int) -> Store:
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    checksum = manifest.pop("checksum")
    _expect(path, "manifest checksum", zarr_arrays.checksum(manifest), checksum)
    _expect(path, "store format", manifest["format"], FORMAT)
    content = (path / "tokenizer.json").read_text(encoding="utf-8")
    bos, eos = manifest.get("special_ids", (None, None))
    loaded = (
        tokenizers.from_json(content, str(path), bos=bos, eos=eos)
        if content
        else tokenizers.byte_tokenizer()
    )
    _expect(path, "tokenizer", loaded.digest, manifest["tokenizer"])
    train, heldout = (
        tuple(
            _open_side(
                path / f"{index}-{side}", manifest["arrays"][f"{index}-{side}"], memory_bytes
            )
            for index in range(manifest["num_sources"])
        )
        for side in _SIDES
    )
    return Store(tokenizer=loaded, train=train, heldout=heldout, fingerprint=checksum)


def _open_side(path: pathlib.Path, entry: dict[str, Any], memory_bytes: int) -> TokenArray:
    tokens_path, ends_path = f"{path}-tokens", f"{path}-ends"
    ends = zarr_arrays.opened(ends_path, entry["ends"])
    tokens = zarr_arrays.opened(tokens_path, entry["tokens"])
    ends_N = _verified(ends_path, ends, entry["ends"])
    if tokens.dtype.numpy_dtype.itemsize * tokens.size <= memory_bytes:
        tokens = _verified(tokens_path, tokens, entry["tokens"])
    return TokenArray(tokens=tokens, ends_N=ends_N, num_bytes=entry["num_bytes"], path=tokens_path)


def _verified(path: str, array: tensorstore.TensorStore, entry: dict[str, Any]) -> np.ndarray:
    values = array.read().result()
    digest = hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest()
    _expect(path, "checksum", digest, entry["checksum"])
    return values


def _expect(path: object, what: str, got: object, expected: object) -> None:
    if got != expected:
        raise _damaged(str(path), f"expected {what} {expected}, got {got}")


def _damaged(path: str, reason: object) -> StoreError:
    line = (str(reason).strip() or repr(reason)).splitlines()[0][:200]
    return StoreError(f"token store {path} is damaged: {line}")


class _SideWriter:
    """Encodes documents in batches and appends them to the two arrays of a side."""

    def __init__(self, path: pathlib.Path, tokenizer: tokenizers.Tokenizer):
        self.tokenizer = tokenizer
        dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
        self.tokens = zarr_arrays.Writer(f"{path}-tokens", np.dtype(dtype))
        self.ends = zarr_arrays.Writer(f"{path}-ends", np.dtype(np.int64))
        self.waiting: list[bytes] = []
        self.end = self.num_bytes = 0

    def add(self, text: bytes) -> None:
        self.waiting.append(text)
        self.num_bytes += len(text)
        if len(self.waiting) == _BATCH_DOCUMENTS:
            self.flush()

    def flush(self) -> None:
        for ids in self.tokenizer.encode_documents(self.waiting):
            self.end += len(ids)
            self.tokens.append(ids)
            self.ends.append(np.asarray([self.end]))
        self.waiting = []

    def close(self) -> dict[str, Any]:
        self.flush()
        return {
            "tokens": self.tokens.close(),
            "ends": self.ends.close(),
            "num_bytes": self.num_bytes,
        }
