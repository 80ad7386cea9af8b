"""Hugging Face directories in and out, tensor by tensor; `hf_architectures` lists what is known.

Every tensor of the files must be claimed once and have the shape that config.json implies; headers
are checked for this before anything is written. Float16 becomes float32. Quantised weights
(`hf_quantized`) become bfloat16, or float32 where packed ones have scales of another dtype. From a
folder with a text_config, the language model is read, and its encoder of images where one is
wanted (`hf_image_config`).
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from kanana_jax import config
from kanana_jax.checkpoint.errors import CheckpointError
from kanana_jax.weights import (
    hf_checks,
    hf_config,
    hf_files,
    hf_image_config,
    hf_image_names,
    hf_names,
    hf_quantized,
    hf_tokenizer,
    native,
)

_NAMES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
DTYPES = tuple(_NAMES)

OnTensor = Callable[[int], object]  # told the bytes of each tensor done


@dataclasses.dataclass(frozen=True)
class Opened:
    """A directory whose names and shapes were checked against its config.json."""

    cfg: config.ModelConfig
    extra: dict[str, Any]  # fields that an export writes back
    leaves: dict[str, hf_names.Leaf]
    left_out: list[str]  # tensors of other parts and of extra predictors
    entries: Mapping[str, hf_quantized.Stored]
    is_interleaved: bool

    def read_part(self, leaf: hf_names.Leaf, tensor: hf_names.Tensor) -> np.ndarray:
        part = hf_names.to_part(leaf, tensor, self.entries[tensor.name].read())
        return part if self.is_interleaved else hf_names.interleave_rotary(leaf, part)

    def dtype(self, path: str) -> np.dtype:
        """The widest dtype in a leaf."""
        return _widest(path, self.leaves[path].tensors, self.entries)

    def read_layer(self, path: str, layer: int | None) -> np.ndarray:
        """One layer of a stacked leaf, or a leaf outside the stacks, in the widest dtype in it."""
        leaf = self.leaves[path]
        if layer is None:
            return self.read_part(leaf, leaf.tensors[0])
        tensors = [tensor for tensor in leaf.tensors if tensor.index[0] == layer]
        dtype = _widest(path, tensors, self.entries)
        out = np.empty(leaf.shape[1:], dtype)
        for tensor in tensors:
            out[tensor.index[1:]] = self.read_part(leaf, tensor)
        return out


def open_directory(source: Path, *, with_images: bool = False) -> Opened:
    """Reads config.json and all headers; raises CheckpointError when they do not agree.

    With `with_images` there must be an encoder of images, which becomes part of the model.
    """
    whole = hf_files.read_json(source / "config.json")
    fields = hf_config.text_fields(whole)
    cfg = hf_config.from_hf(fields)
    group_size = hf_quantized.group_size(fields)
    entries = hf_files.read_headers(source)
    left_out: list[str] = []
    if fields is not whole:
        entries, others = hf_checks.of_text(entries)
        if with_images:
            entries |= hf_image_names.of_encoder(others)
        left_out = [name for name in others if name not in entries]
    if with_images:
        cfg = dataclasses.replace(cfg, vision=hf_image_config.from_hf(whole))
    hf_checks.check_size(cfg, entries)
    predictors = hf_checks.predictor_names(entries, fields, cfg.num_layers)
    unread = {*predictors, *hf_checks.computed_names(cfg, entries)}
    kept = {name: entry for name, entry in entries.items() if name not in unread}
    stored = hf_quantized.gather(kept, group_size)
    if with_images:
        stored = hf_image_names.split(stored)
    leaves = hf_names.leaves(cfg)
    hf_checks.check_tensors(leaves, stored)
    extra, is_interleaved = hf_config.extra_fields(fields), hf_config.is_rope_interleaved(fields)
    if with_images:
        extra[hf_image_config.EXTRA] = hf_image_config.extra_fields(whole)
    return Opened(cfg, extra, leaves, left_out + predictors, stored, is_interleaved)


def import_directory(
    source: Path,
    target: Path,
    *,
    dtype: str | None = None,
    with_images: bool = False,
    on_tensor: OnTensor = lambda num_bytes: None,
) -> list[str]:
    """Writes `target`, a folder that training starts from and generate loads.

    Weights keep the dtype of the files (the widest in a leaf) unless `dtype` names another. Returns
    the names of the tensors left out: other parts, and predictors of further tokens.
    """
    opened = open_directory(source, with_images=with_images)
    tokenizer_json = hf_tokenizer.read(source, opened.cfg.vocab_size)
    with native.new_directory(target) as folder:
        write_native(opened, folder, dtype=dtype, on_tensor=on_tensor)
        native.copy_tokenizer(source, folder)
        if tokenizer_json is not None and not (folder / hf_tokenizer.NAME).exists():
            (folder / hf_tokenizer.NAME).write_text(tokenizer_json)
    return opened.left_out


def write_native(opened: Opened, folder: Path, *, dtype: str | None, on_tensor: OnTensor) -> None:
    """Writes weights and config.json of a model folder."""

    def stream(path: str, leaf: hf_names.Leaf) -> native.Streamed:
        def parts():
            for tensor in leaf.tensors:
                part = opened.read_part(leaf, tensor)
                yield tensor.index, part.astype(target_dtype)
                on_tensor(part.nbytes)

        target_dtype = _leaf_dtype(path, leaf, opened.entries, dtype)
        return native.Streamed(leaf.shape, target_dtype, leaf.part_shape, parts)

    weights: dict[str, Any] = {"params": {}}
    for path, leaf in opened.leaves.items():
        insert(weights, native_path(path), stream(path, leaf))
    native.write(folder, native.Description(opened.cfg, opened.extra), weights)


def export_directory(
    source: Path,
    target: Path,
    *,
    dtype: str | None = None,
    max_position_embeddings: int | None = None,
    image_token_id: int | None = None,
    shard_bytes: int = 5_000_000_000,
    on_tensor: OnTensor = lambda num_bytes: None,
) -> None:
    """Writes `target` for transformers, vLLM and the like, from a model folder."""
    what = native.read_description(source)
    extra = dict(what.extra)
    if max_position_embeddings is not None:
        extra["max_position_embeddings"] = max_position_embeddings
    of_images = dict(extra.pop(hf_image_config.EXTRA, {}))
    if image_token_id is not None:
        of_images["image_token_id"] = image_token_id
    leaves = hf_names.leaves(what.cfg)
    open_leaf = native.part_reader(source)
    arrays = {path: open_leaf(native_path(path)) for path in leaves}
    check_stored(leaves, arrays)
    dtypes = {
        path: _NAMES[dtype] if dtype and path != hf_names.ROUTER_BIAS else array.dtype.numpy_dtype
        for path, array in arrays.items()
    }
    fields = hf_config.to_hf(what.cfg, extra, dtypes["embed"].name)
    prefix = ""
    if what.cfg.vision is not None:
        fields, prefix = hf_image_config.to_hf(what.cfg, fields, of_images), hf_image_names.OF_TEXT
    order = sorted(
        ((path, tensor) for path, leaf in leaves.items() for tensor in leaf.tensors),
        key=lambda item: _layer(item[1].name),
    )
    written = [*hf_image_names.joined(order)]
    planned = [_planned(prefix, one, dtypes) for one in written]

    def read(path: str, tensor: hf_names.Tensor) -> np.ndarray:
        part = np.asarray(arrays[path][tensor.index].read().result())
        on_tensor(part.nbytes)
        return hf_names.from_part(tensor, part.astype(dtypes[path], copy=False))

    def tensors() -> Iterator[np.ndarray]:
        for one in written:
            parts = [read(*part) for part in one.parts]
            yield parts[0] if len(parts) == 1 else np.concatenate(parts)

    with native.new_directory(target) as folder:
        hf_files.write_shards(folder, planned, tensors(), shard_bytes)
        (folder / "config.json").write_text(json.dumps(fields, indent=2))
        native.copy_tokenizer(source, folder)


def _planned(
    prefix: str, one: hf_image_names.Written, dtypes: Mapping[str, np.dtype]
) -> hf_files.Planned:
    path, tensor = one.parts[0]
    shape = (len(one.parts) * tensor.shape[0], *tensor.shape[1:])
    name = one.name if path.startswith("vision/") else prefix + one.name
    return hf_files.Planned(name, shape, dtypes[path])


def native_path(path: str) -> str:
    """Where a leaf lies in a model folder's tree."""
    return path if path == hf_names.ROUTER_BIAS else f"params/{path}"


def insert(tree: dict[str, Any], path: str, leaf: Any) -> None:
    """Puts a leaf into a nested dict at a path of names separated by /."""
    *groups, name = path.split("/")
    for group in groups:
        tree = tree.setdefault(group, {})
    tree[name] = leaf


def _layer(name: str) -> int:
    """A tensor's place in a file: the embedding, the layers, then norm and head."""
    parts = name.split(".")
    return int(parts[2]) if parts[1] == "layers" else -1 if parts[1] == "embed_tokens" else 1 << 30


def check_stored(leaves: dict[str, hf_names.Leaf], arrays: dict[str, Any]) -> None:
    """Raises CheckpointError unless the arrays of a model folder are those of its config."""
    for path, leaf in leaves.items():
        hf_checks.check_shape(path, leaf.shape, tuple(arrays[path].shape))
        if arrays[path].dtype.numpy_dtype not in _NAMES.values():
            raise CheckpointError(
                f"{path} has dtype {arrays[path].dtype.name}; expected one of {', '.join(DTYPES)}"
            )


def _leaf_dtype(path: str, leaf: hf_names.Leaf, entries: Mapping, dtype: str | None) -> np.dtype:
    if path == hf_names.ROUTER_BIAS:
        return _NAMES["float32"]
    return _NAMES[dtype] if dtype is not None else _widest(path, leaf.tensors, entries)


def _widest(path: str, tensors: Iterable[hf_names.Tensor], entries: Mapping) -> np.dtype:
    if path == hf_names.ROUTER_BIAS:
        return _NAMES["float32"]
    # Float32 holds every float16 number; bfloat16 does not.
    wide = any(entries[tensor.name].dtype in (np.float32, np.float16) for tensor in tensors)
    return _NAMES["float32" if wide else "bfloat16"]
