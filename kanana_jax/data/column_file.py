"""A number for each token of a corpus, in one file of the cache, checked when it is read.

It is a zip of a numpy array (T,) and a digest of its bytes, written under another name and renamed
when complete. Letter: T tokens.
"""

import hashlib
import pathlib

import numpy as np
from jaxtyping import Float32

from kanana_jax.data import cache_files, whole_files
from kanana_jax.data.errors import DataError, StoreError, first_line


def save(path: pathlib.Path, column_T: Float32[np.ndarray, "T"]) -> None:
    """Writes the file; DataError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            cache_files.locked(path),
            whole_files.replaced(path) as unfinished,
            open(unfinished, "wb") as file,
        ):
            np.savez(file, column_T=column_T, digest=_digest(column_T))
    except OSError as error:
        raise DataError(
            f"data.cache_dir: cannot write {path}: {first_line(error)}; free space or set "
            "data.cache_dir to a folder that can be written."
        ) from error


def load(path: pathlib.Path, num_tokens: int) -> Float32[np.ndarray, "T"]:
    """Reads the file. StoreError unless it is as written, with `num_tokens` numbers."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
            column_T, wanted = content["column_T"], content["digest"]
    except Exception as error:  # damaged zips fail in too many ways to list
        raise StoreError(f"{path} is damaged: {first_line(error)}") from error
    if column_T.shape != (num_tokens,) or not np.array_equal(_digest(column_T), wanted):
        raise StoreError(
            f"{path} is damaged: expected {num_tokens} numbers as they were written, got others"
        )
    return column_T


def _digest(column_T: np.ndarray) -> np.ndarray:
    content = np.ascontiguousarray(column_T)
    return np.frombuffer(hashlib.blake2b(content.data, digest_size=16).digest(), np.uint8)
