"""One-dimensional zarr3 arrays, appended to once and read by slices.

Chunks carry a crc32c, and a missing chunk is an error rather than zeros.
"""

import hashlib
import json
from typing import Any

import numpy as np
import tensorstore

_SHARD, _CHUNK = 2**22, 2**15  # elements in a file, and in the smallest part that is decoded


class Writer:
    """Appends to a one-dimensional zarr3 array, a whole shard at a time."""

    def __init__(self, path: str, dtype: np.dtype):
        self.dtype = dtype
        self.array = tensorstore.open(
            {**_location(path), "metadata": _metadata(dtype)}, create=True
        ).result()
        self.waiting: list[np.ndarray] = []
        self.num_waiting = self.length = 0
        self.checksum = hashlib.blake2b(digest_size=16)

    def append(self, values: np.ndarray) -> None:
        self.waiting.append(values.astype(self.dtype))
        self.num_waiting += len(values)
        if self.num_waiting >= _SHARD:
            self.flush(self.num_waiting // _SHARD * _SHARD)

    def flush(self, count: int) -> None:
        values = np.concatenate([np.zeros(0, self.dtype), *self.waiting])
        begin, self.length = self.length, self.length + count
        self.array = self.array.resize(exclusive_max=[self.length]).result()
        self.array[begin : self.length].write(values[:count]).result()
        self.checksum.update(values[:count].tobytes())
        self.waiting, self.num_waiting = [values[count:]], len(values) - count

    def close(self) -> dict[str, Any]:
        """Length, dtype and checksum of all that was appended."""
        self.flush(self.num_waiting)
        return {
            "length": self.length,
            "dtype": self.dtype.name,
            "checksum": self.checksum.hexdigest(),
        }


def opened(path: str, entry: dict[str, Any]) -> tensorstore.TensorStore:
    """An array opened for reading; `entry` is what `Writer.close` returned."""
    return tensorstore.open(
        _location(path), open=True, read=True, dtype=entry["dtype"], shape=[entry["length"]]
    ).result()


def checksum(manifest: dict[str, Any]) -> str:
    """The checksum of a manifest, taken from its JSON."""
    canonical = json.dumps(manifest, sort_keys=True).encode()
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


def _location(path: str) -> dict[str, Any]:
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": path},
        "fill_missing_data_reads": False,
        "store_data_equal_to_fill_value": True,
    }


def _metadata(dtype: np.dtype) -> dict[str, Any]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": 1}}
    sharding = {
        "chunk_shape": [_CHUNK],
        "codecs": [little, zstd, {"name": "crc32c"}],
        "index_codecs": [little, {"name": "crc32c"}],
    }
    return {
        "shape": [0],
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [_SHARD]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
