"""The tensors of an encoder of images, as Kimi K2.5's published files name them.

    vision_tower.patch_embed            a convolution, and the learned positions
    vision_tower.encoder.blocks.LAYER   norm0, wqkv, wo, norm1, mlp.fc0, mlp.fc1
    mm_projector                        pre_norm, proj.0, proj.2

Queries, keys and values are one tensor there, `wqkv`, and three here, `wq`, `wk` and `wv`: those
are its thirds, under names that no file has.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kanana_jax.checkpoint.errors import CheckpointError

PREFIXES = ("vision_tower.", "mm_projector.")
OF_TEXT = "language_model."  # before the names of the language model beside them
TOP = {
    "patch/w": "vision_tower.patch_embed.proj.weight",
    "patch/b": "vision_tower.patch_embed.proj.bias",
    "positions": "vision_tower.patch_embed.pos_emb.weight",
    "final_norm/gamma": "vision_tower.encoder.final_layernorm.weight",
    "final_norm/beta": "vision_tower.encoder.final_layernorm.bias",
    "projector/norm/gamma": "mm_projector.pre_norm.weight",
    "projector/norm/beta": "mm_projector.pre_norm.bias",
    "projector/inner/w": "mm_projector.proj.0.weight",
    "projector/inner/b": "mm_projector.proj.0.bias",
    "projector/outer/w": "mm_projector.proj.2.weight",
    "projector/outer/b": "mm_projector.proj.2.bias",
}
# Below vision_tower.encoder.blocks.<layer>.
OF_LAYER = {
    "attention_norm/gamma": "norm0.weight",
    "attention_norm/beta": "norm0.bias",
    "attention/wq": "wq.weight",
    "attention/wk": "wk.weight",
    "attention/wv": "wv.weight",
    "attention/wo": "wo.weight",
    "attention/bq": "wq.bias",
    "attention/bk": "wk.bias",
    "attention/bv": "wv.bias",
    "attention/bo": "wo.bias",
    "mlp_norm/gamma": "norm1.weight",
    "mlp_norm/beta": "norm1.bias",
    "mlp/up/w": "mlp.fc0.weight",
    "mlp/up/b": "mlp.fc0.bias",
    "mlp/down/w": "mlp.fc1.weight",
    "mlp/down/b": "mlp.fc1.bias",
}
# There, neighbouring columns of a head turn together; here, columns of its two halves do.
PAIRED = ("wq", "wk", "bq", "bk")
_JOINT, _PARTS = ".wqkv.", (".wq.", ".wk.", ".wv.")


def layer_name(layer: int, name: str) -> str:
    return f"vision_tower.encoder.blocks.{layer}.{name}"


class _Third(NamedTuple):
    """A third of a tensor's rows."""

    whole: Any  # hf_quantized.Stored
    number: int

    @property
    def file(self) -> Path:
        return self.whole.file

    @property
    def code(self) -> str:
        return self.whole.code

    @property
    def dtype(self) -> np.dtype:
        return self.whole.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.whole.shape[0] // 3, *self.whole.shape[1:])

    def read(self) -> np.ndarray:
        return np.split(self.whole.read(), 3)[self.number]


def of_encoder(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of an encoder of images and its projector."""
    return {name: entry for name, entry in entries.items() if name.startswith(PREFIXES)}


def split(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors with each `wqkv` as its thirds. CheckpointError where one cannot be split."""
    found: dict[str, Any] = {}
    for name, entry in entries.items():
        if _JOINT not in name:
            found[name] = entry
            continue
        if not entry.shape or entry.shape[0] % 3:
            raise CheckpointError(
                f"{name}: expected rows of queries, keys and values, as many of each, got shape "
                f"{entry.shape}"
            )
        for number, part in enumerate(_PARTS):
            found[name.replace(_JOINT, part)] = _Third(entry, number)
    return found


class Written(NamedTuple):
    """A tensor of a file, and our tensors whose rows it holds, one after the other."""

    name: str
    parts: tuple[Any, ...]


def joined(order: Iterable[tuple[str, Any]]) -> Iterator[Written]:
    """The tensors to write for (path, hf_names.Tensor): three thirds become one."""
    thirds: dict[str, dict[str, Any]] = {}
    for one in order:
        name = one[1].name
        part = next((part for part in _PARTS if part in name), None)
        if part is None or not name.startswith(PREFIXES):
            yield Written(name, (one,))
            continue
        joint = name.replace(part, _JOINT)
        found = thirds.setdefault(joint, {})
        found[part] = one
        if len(found) == len(_PARTS):
            yield Written(joint, tuple(found[part] for part in _PARTS))
