"""Whole models in the host's memory, for changes that need all layers of a leaf."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from kanana_jax import config, model
from kanana_jax.weights import hf, hf_names, native
from kanana_jax.weights.source import Source


def load(opened: Source) -> model.Weights:
    """Numpy arrays, each leaf in the widest dtype of its layers."""
    tree: dict[str, Any] = {}
    for path, leaf in hf_names.leaves(opened.cfg).items():
        hf.insert(tree, hf.native_path(path), read(opened, path, leaf))
    return native.from_stored(tree)


def read(opened: Source, path: str, leaf: hf_names.Leaf) -> np.ndarray:
    """All layers of a leaf."""
    if not leaf.is_stacked:
        return opened.read(path, None)
    if not leaf.shape[0]:
        return np.zeros(leaf.shape, opened.dtype(path))
    return np.stack([opened.read(path, layer) for layer in range(leaf.shape[0])])


def save(
    target: Path, cfg: config.ModelConfig, weights: model.Weights, like: Source, folder: Path
) -> None:
    """Writes the model folder `target`; what is not its shape is that of `like`, in `folder`."""
    with native.new_directory(target) as made:
        tree = jax.tree.map(native.streamed, native.stored(weights))
        native.write(made, native.Description(cfg, like.extra, like.compute_dtype), tree)
        native.copy_tokenizer(folder, made)
