"""Merges models of one shape, from model folders or from checkpoints of one run.

    M <- M + w_i / (w_1 + ... + w_i) (W_i - M)        so that M = sum_i w_i W_i / sum_i w_i

The weighted mean is summed in float32; identical models give that model, bit for bit. With the
weights w_1 = d^(n - 1) and w_i = (1 - d) d^(n - i) it is the moving average that begins at the
first of n. Model folders are read one layer of a leaf at a time, checkpoints one leaf at a time.
Three of these are in memory, in float32; for `ties`, those of all models.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kanana_jax import config
from kanana_jax.checkpoint.errors import CheckpointError, some
from kanana_jax.weights import hf, hf_names, native, run_folder
from kanana_jax.weights.source import Source, open_source
from kanana_jax.weights.ties import DENSITY, ties


def mean(arrays: Iterable[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The weighted mean in float32 of arrays of one shape, taken one at a time."""
    pairs = zip(arrays, weights, strict=True)
    x, total = next(pairs)
    found = x.astype(np.float32)
    for x, weight in pairs:
        total += weight
        step = x.astype(np.float32)
        step -= found
        step *= np.float32(weight / total)
        found += step
    return found


def merge_folders(
    folders: Sequence[Path],
    target: Path,
    *,
    weights: Sequence[float] | None = None,
    base: Path | None = None,
    density: float = DENSITY,
    dtype: str | None = None,
    on_part: Callable[[int], object] = lambda num_bytes: None,
) -> None:
    """Writes `target`, the mean of folders of one shape and one tokenizer.

    With `base`, the folder that all of them were trained from, their changes are merged as in
    `ties` instead. Weights keep their dtype (the widest in a leaf) unless `dtype` names another;
    the router bias is float32. All other settings, such as fields for an export, are the first
    folder's. Raises CheckpointError before anything is written. `on_part` is told the bytes of
    each part written.
    """
    numbers = _checked(weights, len(folders))
    if not 0.0 < density <= 1.0:
        raise CheckpointError(f"the density of a merge must be over 0 and at most 1; got {density}")
    every = [*folders, *([] if base is None else [base])]
    sources = [open_source(folder) for folder in every]
    for folder, opened in zip(every, sources, strict=True):
        _expect_alike(folders[0], sources[0], folder, opened)

    def combined(arrays: Iterable[np.ndarray]) -> np.ndarray:
        if base is None:
            return mean(arrays, numbers)
        *trained, start = arrays
        return ties(start, trained, numbers, density)

    _write(target, folders[0], sources, combined, dtype, on_part)


def merge_adapters(
    base: Path,
    adapters: Path,
    target: Path,
    *,
    dtype: str | None = None,
    on_part: Callable[[int], object] = lambda num_bytes: None,
) -> None:
    """Writes `target`, the model in `base` with adapters of a PEFT folder or of a run merged in.

    Weights keep the dtype of the base unless `dtype` names another. Raises CheckpointError.
    """
    opened = open_source(base, adapters)
    _write(target, base, [opened], lambda arrays: mean(arrays, [1.0]), dtype, on_part)


def _write(
    target: Path,
    like: Path,
    sources: Sequence[Source],
    combined: Callable[[Iterable[np.ndarray]], np.ndarray],
    dtype: str | None,
    on_part: Callable[[int], object],
) -> None:
    """Writes `target`; all but the weights is that of the first source, the folder `like`."""
    first = sources[0]
    tree: dict[str, Any] = {}
    for path, leaf in hf_names.leaves(first.cfg).items():
        widest = functools.reduce(np.promote_types, [one.dtype(path) for one in sources])
        kept = widest if dtype is None or path == hf_names.ROUTER_BIAS else np.dtype(dtype)
        hf.insert(tree, hf.native_path(path), _stream(path, leaf, sources, combined, kept, on_part))
    with native.new_directory(target) as folder:
        native.write(folder, native.Description(first.cfg, first.extra, first.compute_dtype), tree)
        native.copy_tokenizer(like, folder)


def merge_run(
    run: Path, target: Path, *, last: int, weights: Sequence[float] | None = None
) -> None:
    """Writes `target`, the mean of the `last` newest checkpoints of a run; `weights` oldest first.

    Weights are float32. Raises CheckpointError, and UnreachableError when a store does not answer.
    """
    if last < 1:
        raise CheckpointError(f"a merge needs at least 1 checkpoint, got {last}")
    numbers = _checked(weights, last)
    recorded = run_folder.open_run(run)
    loaders = [run_folder.loader(recorded, one) for one in run_folder.newest(recorded, last)]

    def load(path: str, like: jax.ShapeDtypeStruct) -> np.ndarray:
        return mean((load_one(path, like) for load_one in loaders), numbers)

    run_folder.write(target, recorded, load)


def _checked(weights: Sequence[float] | None, count: int) -> Sequence[float]:
    numbers = [1.0] * count if weights is None else weights
    if len(numbers) != count or not all(0.0 < x < math.inf for x in numbers):
        raise CheckpointError(
            f"the weights of a merge must be a number over 0 for each of {count} models; got "
            f"{some(map(str, numbers), 20)}"
        )
    return numbers


def _expect_alike(first: Path, wanted: Source, folder: Path, got: Source) -> None:
    differing = config.diff(_shape(wanted.cfg), _shape(got.cfg), "model.")
    if differing:
        raise CheckpointError(
            f"{folder} must have the shape of {first}, but there are {some(differing)}; merge "
            "models of one shape"
        )
    tokenizers = [
        {path: (one / path).read_bytes() for path in native.tokenizer_files(one)}
        for one in (first, folder)
    ]
    names = sorted(tokenizers[0].keys() | tokenizers[1].keys())
    others = [str(name) for name in names if tokenizers[0].get(name) != tokenizers[1].get(name)]
    if others:
        raise CheckpointError(
            f"{folder} must have the tokenizer of {first}, but they differ in {some(others)}; "
            "merge models of one tokenizer, or give both the same files"
        )


def _shape(cfg: config.ModelConfig) -> dict[str, Any]:
    # The initialization decides nothing about a trained model.
    return {name: x for name, x in dataclasses.asdict(cfg).items() if name != "init_std"}


def _stream(
    path: str,
    leaf: hf_names.Leaf,
    sources: Sequence[Source],
    combined: Callable[[Iterable[np.ndarray]], np.ndarray],
    dtype: np.dtype,
    on_part: Callable[[int], object],
) -> native.Streamed:
    """A leaf of the merged model, read a layer at a time and written a matrix at a time."""

    def parts():
        by_layer = itertools.groupby(leaf.tensors, lambda one: one.index[0] if one.index else None)
        for layer, tensors in by_layer:
            x = combined(one.read(path, layer) for one in sources).astype(dtype, copy=False)
            for tensor in tensors:
                part = x[tensor.index[1:]]
                yield tensor.index, part
                on_part(part.nbytes)

    return native.Streamed(leaf.shape, dtype, leaf.part_shape, parts)
