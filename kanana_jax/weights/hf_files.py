"""Sharded safetensors: headers checked as a whole, tensors read and written one at a time.

    8 bytes: size of the header | header: JSON of name -> dtype, shape, offsets | the numbers

The library checks every file that is read and every one that was written. The numbers are read and
written here, because the library needs a whole shard in memory to write it (measured: 2 times its
size).
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from kanana_jax.checkpoint.errors import CheckpointError, first_line, shown, some

INDEX_NAME = "model.safetensors.index.json"
_SINGLE_NAME = "model.safetensors"
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_DTYPES = FLOATS | {"F8_E4M3": ml_dtypes.float8_e4m3fn}  # of a weight
INTEGERS = {"I32": np.int32, "I64": np.int64}  # of a part of a quantised one


class Entry(NamedTuple):
    """Where a tensor lies."""

    file: Path
    code: str  # of its dtype, as the file spells it
    shape: tuple[int, ...]
    offset: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype((_DTYPES | INTEGERS)[self.code])

    @property
    def is_float8(self) -> bool:
        return self.code == "F8_E4M3"

    def read(self) -> np.ndarray:
        count = math.prod(self.shape)
        return np.fromfile(self.file, self.dtype, count, offset=self.offset).reshape(self.shape)


def read_text(path: Path) -> str:
    """UTF-8 text, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CheckpointError(f"expected {path}, which does not exist") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no readable text ({first_line(error)})") from None


def read_json(path: Path) -> dict:
    try:
        content = json.loads(read_text(path))
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no readable JSON ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def read_json_if_there(path: Path) -> dict:
    """The object in a file, or an empty one where the file is missing."""
    return read_json(path) if path.exists() else {}


def read_headers(directory: Path) -> dict[str, Entry]:
    """Every tensor of a directory; raises CheckpointError when a shard is damaged or missing.

    A tensor that the index does not list counts too: the shards are what is read.
    """
    if (directory / _SINGLE_NAME).exists():
        return read_file(directory / _SINGLE_NAME)
    if not (directory / INDEX_NAME).exists():
        raise CheckpointError(f"{directory}: expected {_SINGLE_NAME} or {INDEX_NAME}, got neither")
    places = _read_index(directory / INDEX_NAME)
    entries: dict[str, Entry] = {}
    for file in sorted(set(places.values())):
        for name, entry in read_file(directory / file).items():
            if places.setdefault(name, file) != file:
                raise CheckpointError(
                    f"{directory / file} holds {name}, which belongs to {places[name]}; each "
                    "tensor must lie in one shard, the index's"
                )
            entries[name] = entry
    absent = [name for name in places if name not in entries]
    if absent:
        raise CheckpointError(f"{directory}: the index names tensors in no shard: {some(absent)}")
    return entries


def _read_index(path: Path) -> dict[str, str]:
    """Shards by tensor."""
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict):
        raise CheckpointError(f"{path} has no weight_map")
    for file in places.values():
        if not isinstance(file, str) or Path(file).is_absolute() or ".." in Path(file).parts:
            raise CheckpointError(
                f"{path}: weight_map must name files below this folder, got {shown(file)}"
            )
    return places


def read_file(path: Path) -> dict[str, Entry]:
    """Every tensor of one file; raises CheckpointError when it is damaged or missing."""
    try:
        if not path.is_file():
            raise CheckpointError(f"shard {path} is missing; copy it again")
        with safetensors.safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut short ({first_line(error)}); copy it again"
        ) from None
    header.pop("__metadata__", None)
    return {
        name: Entry(path, spec["dtype"], tuple(spec["shape"]), 8 + size + spec["data_offsets"][0])
        for name, spec in header.items()
    }


def check_dtypes(entries: Mapping[str, Any]) -> None:
    """Raises CheckpointError when a tensor has a dtype that cannot be read."""
    for name, entry in entries.items():
        if entry.code not in _DTYPES:
            raise CheckpointError(
                f"{entry.file}: {name} has dtype {entry.code}; expected one of {', '.join(_DTYPES)}"
            )


class Planned(NamedTuple):
    """A tensor to be written, known before its numbers are."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_shards(
    directory: Path, planned: list[Planned], tensors: Iterator[np.ndarray], shard_bytes: int
) -> None:
    """Writes `tensors`, which come in the order of `planned`, each as soon as it is there."""
    shards = _plan(planned, shard_bytes)
    places = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(directory / file, shard, tensors)
        places |= {tensor.name: file for tensor in shard}
    total = sum(tensor.num_bytes for tensor in planned)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (directory / INDEX_NAME).write_text(json.dumps(index, indent=2))


def _plan(planned: list[Planned], shard_bytes: int) -> list[list[Planned]]:
    shards: list[list[Planned]] = [[]]
    size = 0
    for tensor in planned:
        if shards[-1] and size + tensor.num_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.num_bytes
    return shards


def write_file(path: Path, shard: list[Planned], tensors: Iterator[np.ndarray]) -> None:
    """Writes `tensors`, which come in the order of `shard`, as one file, and checks it."""
    codes = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in shard:
        start, end = end, end + tensor.num_bytes
        header[tensor.name] = {
            "dtype": codes[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)  # the format aligns the numbers to 8 bytes
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        for _ in shard:
            file.write(next(tensors).tobytes())
    read_file(path)
