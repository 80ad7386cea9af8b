"""A model read one layer of a leaf at a time, from either kind of folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kanana_jax import config
from kanana_jax.weights import hf, hf_config, hf_files, hf_names, lora, native, peft, run_folder


class Source(NamedTuple):
    """`read(path, layer)` gives a layer of a leaf, e.g. "moe_layers/mlp/w_down".

    Layers are counted within their stack. "router_bias" is a leaf too. A leaf outside the stacks is
    read with None. Numbers have the widest dtype that the files have for that layer, as `hf` reads
    them. `dtype(path)` is the widest of all its layers.
    """

    cfg: config.ModelConfig
    compute_dtype: str
    extra: dict[str, Any]  # fields of a Hugging Face config.json that the model does not read
    read: Callable[[str, int | None], np.ndarray]
    dtype: Callable[[str], np.dtype]


def open_source(directory: Path, adapters: Path | None = None) -> Source:
    """Opens a folder of `kanana_jax.convert` or a Hugging Face one, with adapters added if given.

    `adapters` is a PEFT folder, or that of a run which trained them beside this very model. All
    names and shapes are checked against config.json here; raises CheckpointError.
    """
    opened = _open(directory)
    if adapters is None:
        return opened
    if (adapters / peft.CONFIG_NAME).exists():
        fields = hf_files.read_json(directory / native.CONFIG_NAME)
        is_interleaved = hf_config.is_rope_interleaved(fields) if _is_hf(fields) else True
        pairs = peft.read(adapters, opened.cfg, is_interleaved=is_interleaved)
    else:
        pairs = run_folder.open_pairs(adapters, directory)
    return opened._replace(read=lora.added(pairs, opened.read))


def _is_hf(fields: dict[str, Any]) -> bool:
    return bool({"architectures", "model_type"} & fields.keys())


def _open(directory: Path) -> Source:
    if _is_hf(hf_files.read_json(directory / native.CONFIG_NAME)):
        opened = hf.open_directory(directory)
        return Source(opened.cfg, "bfloat16", opened.extra, opened.read_layer, opened.dtype)
    what = native.read_description(directory)
    open_leaf = native.part_reader(directory)
    leaves = hf_names.leaves(what.cfg)
    arrays = {path: open_leaf(hf.native_path(path)) for path in leaves}
    hf.check_stored(leaves, arrays)

    def read(path: str, layer: int | None) -> np.ndarray:
        part = arrays[path] if layer is None else arrays[path][layer]
        return np.asarray(part.read().result())

    def dtype(path: str) -> np.dtype:
        return arrays[path].dtype.numpy_dtype

    return Source(what.cfg, what.compute_dtype, what.extra, read, dtype)
