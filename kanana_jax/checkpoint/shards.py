"""Arrays of a train state in files: one zarr array each, one chunk per shard, a hash per chunk.

    state/<path of the array>/.zarray    shape, dtype, shape of a chunk
    state/<path of the array>/1.0        the shard at that place of the grid, uncompressed

Every process writes the shards that are on its devices and reads the chunks that its devices need,
whatever mesh wrote them. A shard with copies on several devices is written once. A flipped bit
makes a chunk's hash differ.
"""

import hashlib
import itertools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorstore as ts

from kanana_jax.checkpoint.objects import Objects

# An array: {"shape", "dtype", "chunk_shape", "zarray": its hash, "chunks": {"1.0": its hash}}.
Entry = dict[str, Any]
# What a process needs of an array: the numbers at each ((begin, end), ...).
Regions = dict[tuple[tuple[int, int], ...], np.ndarray]


class DamagedError(ValueError):
    """A checkpoint whose content is not what was saved."""


class Share(NamedTuple):
    """What this process writes of an array: host copies of chunks by their place in the grid."""

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk_shape: tuple[int, ...]
    chunks: dict[tuple[int, ...], np.ndarray]


def paths(tree: Any) -> dict[str, Any]:
    """The leaves by their path, params/moe_layers/mlp/w_down."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(key, simple=True, separator="/"): leaf for key, leaf in flat}


def copy(tree: Any) -> dict[str, Share]:
    """Copies what this process writes of the jax.Arrays of `tree` to the host."""
    leaves = paths(tree)
    for x in leaves.values():
        x.copy_to_host_async()
    return {path: _share(x) for path, x in leaves.items()}


def _share(x: jax.Array) -> Share:
    chunk_shape = x.sharding.shard_shape(x.shape)
    chunks = {}
    for shard in x.addressable_shards:
        if shard.replica_id == 0 and x.size:
            begins = [
                part.indices(size)[0] for part, size in zip(shard.index, x.shape, strict=True)
            ]
            place = tuple(b // size for b, size in zip(begins, chunk_shape, strict=True))
            # A copy: on a CPU this is the memory that the train step is about to reuse.
            chunks[place] = np.array(shard.data)
    return Share(x.shape, np.dtype(x.dtype), chunk_shape, chunks)


def write(folder: Objects, shares: dict[str, Share]) -> dict[str, Entry]:
    """Writes `shares` below `folder` and returns the entries, with this process's chunks."""
    entries, writes = {}, []
    for path, share in shares.items():
        chunks = {_name(place): _hash(chunk) for place, chunk in share.chunks.items()}
        entries[path] = _shape(share) | {"chunk_shape": list(share.chunk_shape), "chunks": chunks}
        if chunks:
            array = _open(folder, path, entries[path], create=True)
            writes += [
                array[_slices(_region(place, share.chunk_shape))].write(chunk)
                for place, chunk in share.chunks.items()
            ]
    for one in writes:
        folder.wait(one)
    for path, entry in entries.items():
        if entry["chunks"]:
            entry["zarray"] = hash_bytes(folder.read(f"{path}/.zarray"))
    return entries


def merge(parts: list[dict[str, Entry]]) -> dict[str, Entry]:
    """The entries of all processes as one; every chunk must be there once."""
    merged = {path: entry | {"chunks": {}} for path, entry in parts[0].items()}
    for path, entry in itertools.chain.from_iterable(part.items() for part in parts):
        chunks = merged[path]["chunks"] | entry["chunks"]
        merged[path] |= entry | {"chunks": chunks}
    for path, entry in merged.items():
        wanted = math.prod(entry["shape"]) and math.prod(_grid(entry))
        assert len(entry["chunks"]) == wanted == sum(len(part[path]["chunks"]) for part in parts)
    return merged


def read(folder: Objects, path: str, entry: Entry, like: Any) -> Regions:
    """What this process's devices need of the array at `path`, laid out as `like`.

    Raises DamagedError, or what TensorStore raises, when the array is not what was saved,
    ValueError when `like` has another shape or dtype, and UnreachableError.
    """
    saved = {key: entry[key] for key in ("shape", "dtype")}
    if saved != _shape(like):
        raise ValueError(f"{path} must be {_shape(like)}, got {saved}")
    places = like.sharding.addressable_devices_indices_map(like.shape)
    wanted = {_ends(index, like.shape) for index in places.values() if index is not None}
    regions = {ends: np.zeros([end - begin for begin, end in ends], like.dtype) for ends in wanted}
    if not math.prod(entry["shape"]):
        return regions
    if hash_bytes(folder.read(f"{path}/.zarray")) != entry["zarray"]:
        raise DamagedError(f"{path}/.zarray is not what was written")
    array = _open(folder, path, entry, create=False)
    for place in itertools.product(*map(range, _grid(entry))):
        chunk_ends = _region(place, tuple(entry["chunk_shape"]))
        overlaps = {ends: _overlap(ends, chunk_ends) for ends in regions}
        if all(overlap is None for overlap in overlaps.values()):
            continue
        chunk = folder.wait(array[_slices(chunk_ends)].read())
        if _hash(chunk) != entry["chunks"][_name(place)]:
            raise DamagedError(f"{path} is not what was saved in chunk {_name(place)}")
        for ends, overlap in overlaps.items():
            if overlap is not None:
                regions[ends][_inside(overlap, ends)] = chunk[_inside(overlap, chunk_ends)]
    return regions


def place(regions: Regions, like: Any) -> jax.Array:
    """The array on the devices, from what `read` gave."""
    return jax.make_array_from_callback(
        like.shape, like.sharding, lambda index: regions[_ends(index, like.shape)]
    )


def describe(tree: Any) -> dict[str, Any]:
    """Shape and dtype of every array, as entries have them."""
    return {path: _shape(x) for path, x in paths(tree).items()}


def _shape(x: Any) -> dict[str, Any]:
    return {"shape": list(x.shape), "dtype": np.dtype(x.dtype).name}


def _open(folder: Objects, path: str, entry: Entry, *, create: bool) -> ts.TensorStore:
    spec = {
        "driver": "zarr",
        "kvstore": folder.spec(path),
        "metadata": {"compressor": None, "chunks": [max(size, 1) for size in entry["chunk_shape"]]},
        "fill_missing_data_reads": False,
        "store_data_equal_to_fill_value": True,
    }
    # Another process may have made it: all write the same metadata.
    opening = ts.open(
        spec,
        context=folder.context,
        open=True,
        create=create,
        dtype=ts.dtype(entry["dtype"]),
        shape=entry["shape"],
    )
    return folder.wait(opening)


def _grid(entry: Entry) -> list[int]:
    """Chunks along each dimension."""
    sizes = zip(entry["shape"], entry["chunk_shape"], strict=True)
    return [size // max(chunk, 1) for size, chunk in sizes]


def _region(place: tuple[int, ...], chunk_shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((p * c, (p + 1) * c) for p, c in zip(place, chunk_shape, strict=True))


def _ends(index: Any, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _overlap(one: Any, other: Any) -> tuple[tuple[int, int], ...] | None:
    both = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return both if all(begin < end for begin, end in both) else None


def _inside(ends: Any, outer: Any) -> tuple[slice, ...]:
    """Slices of the region `ends` within an array that holds the region `outer`."""
    return tuple(slice(b - o, e - o) for (b, e), (o, _) in zip(ends, outer, strict=True))


def _slices(ends: Any) -> tuple[slice, ...]:
    return tuple(slice(begin, end) for begin, end in ends)


def _name(place: tuple[int, ...]) -> str:
    """The chunk's file name in zarr."""
    return ".".join(map(str, place)) or "0"


def _hash(x: np.ndarray) -> str:
    # As bytes: hashlib takes no bfloat16. It releases the GIL, so the training thread goes on.
    return hash_bytes(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def hash_bytes(raw: bytes | memoryview) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()
