"""Numbers from a teacher for every batch of a run: zarr3 arrays, written once.

    <store>/manifest.json      shapes, dtypes and checksums, itself checksummed
    <store>/<column>/          (batches * B * S * K,) numbers, batch after batch

A store is written under another name and renamed when complete. Every slice is checked by the
crc32c of its chunks when it is read. Letters: B sequences, S positions, K numbers of a position.
"""

import json
import math
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanana_jax.data import cache_files, zarr_arrays
from kanana_jax.data.errors import DataError, StoreError, first_line

FORMAT = 1


@dataclass(frozen=True)
class TeacherStore:
    """An opened store."""

    path: pathlib.Path
    arrays: Mapping[str, Any]  # a TensorStore for each column
    shapes: Mapping[str, tuple[int, int, int]]  # (B, S, K) of a batch

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """The columns of batch `number` from 0. StoreError if the data on disk is damaged."""
        found = {}
        for name, array in self.arrays.items():
            size = math.prod(self.shapes[name])
            try:
                flat = array[number * size : (number + 1) * size].read().result()
            except ValueError as error:
                raise StoreError(
                    f"{_damaged(self.path, error)}; remove it, the same command makes it again"
                ) from error
            found[name] = flat.reshape(self.shapes[name])
        return found


def write(path: pathlib.Path, batches: Iterable[Mapping[str, np.ndarray]], owner: str) -> None:
    """Writes the columns (B, S, K) of all batches, which have the same shapes and dtypes.

    No two processes may write for one `owner` at the same time; what it left unfinished is removed.
    DataError where the store cannot be written.
    """
    unfinished = path.with_name(f".{path.name}-{owner}")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _write(unfinished, batches)
        with cache_files.locked(path):
            shutil.rmtree(path, ignore_errors=True)
            unfinished.rename(path)
    except DataError:  # raised by `batches` itself
        raise
    except (OSError, ValueError) as error:  # TensorStore reports a full disk as ValueError
        raise DataError(
            f"data.cache_dir: cannot write {path}: {first_line(error)}; free space or set "
            "data.cache_dir to a folder that can be written."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(folder: pathlib.Path, batches: Iterable[Mapping[str, np.ndarray]]) -> None:
    writers: dict[str, zarr_arrays.Writer] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for batch in batches:
        for name, column in batch.items():
            if name not in writers:
                writers[name] = zarr_arrays.Writer(str(folder / name), column.dtype)
                shapes[name] = column.shape
            writers[name].append(column.ravel())
    arrays = {name: {**one.close(), "shape": shapes[name]} for name, one in writers.items()}
    manifest = {"format": FORMAT, "arrays": arrays}
    sealed = {**manifest, "checksum": zarr_arrays.checksum(manifest)}
    (folder / "manifest.json").write_text(json.dumps(sealed, indent=1), encoding="utf-8")


def opened(path: pathlib.Path) -> TeacherStore:
    """Opens a store. StoreError if its metadata differ from what was written."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        wanted = manifest.pop("checksum")
        if zarr_arrays.checksum(manifest) != wanted or manifest["format"] != FORMAT:
            raise StoreError(_damaged(path, "its manifest is not as it was written"))
        entries = manifest["arrays"].items()
        return TeacherStore(
            path,
            {name: zarr_arrays.opened(str(path / name), entry) for name, entry in entries},
            {name: tuple(entry["shape"]) for name, entry in entries},
        )
    except StoreError:
        raise
    except Exception as error:  # damaged JSON and zarr metadata fail in too many ways to list
        raise StoreError(_damaged(path, error)) from error


def _damaged(path: pathlib.Path, reason: object) -> str:
    line = first_line(reason) if isinstance(reason, BaseException) else reason
    return f"teacher store {path} is damaged: {line}"
