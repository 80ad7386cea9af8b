"""Quantised tensors of a Hugging Face folder as the matrices that they stand for.

Headers say which tensors are quantised, and config.json says how.

    fp8, as in DeepSeek-V3 and Kimi K2: X.weight in float8, X.weight_scale_inv
        w[i, j] = q[i, j] * scale_inv[i // 128, j // 128]

    pack-quantized, as in Kimi K2 Thinking and K2.5: X.weight_packed, X.weight_scale, X.weight_shape
        w[i, j] = (q[i, j] - 8) * scale[i, j // group_size]
        q[i, 8 a + b] = packed[i, a] >> 4 b & 15
"""

from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from kanana_jax.checkpoint.errors import CheckpointError, shown
from kanana_jax.weights import hf_fields, hf_files

BLOCK = 128
_SCALE_INV = "_scale_inv"
_PACKED, _SCALE, _SHAPE = "_packed", "_scale", "_shape"
_PER_WORD = 8  # numbers of 4 bits in an int32
_FIXED = {"kv_cache_scheme": None}
_FIXED_OF_GROUP = {"input_activations": None, "output_activations": None}
_FIXED_OF_WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}
_FIXED_OF_WEIGHTS |= {"actorder": None, "dynamic": False}


class Float8(NamedTuple):
    """A matrix with one scale per block, read as float32; it was made from bfloat16."""

    name: str
    q: hf_files.Entry
    scale_inv: hf_files.Entry
    code = "BF16"

    @property
    def file(self) -> Path:
        return self.q.file

    @property
    def shape(self) -> tuple[int, ...]:
        return self.q.shape

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(ml_dtypes.bfloat16)

    def read(self) -> np.ndarray:
        rows, cols = self.shape
        scale = _scales(self.name + _SCALE_INV, self.scale_inv)
        scale = np.repeat(np.repeat(scale, BLOCK, 0), BLOCK, 1)
        return self.q.read().astype(np.float32) * scale[:rows, :cols]


class Packed(NamedTuple):
    """A matrix of 4-bit integers with one scale per `group_size` columns, read as float32."""

    name: str
    packed: hf_files.Entry
    scale: hf_files.Entry
    shape: tuple[int, ...]
    group_size: int

    @property
    def file(self) -> Path:
        return self.packed.file

    @property
    def code(self) -> str:
        return "BF16" if self.scale.code == "BF16" else "F32"

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(ml_dtypes.bfloat16 if self.code == "BF16" else np.float32)

    def read(self) -> np.ndarray:
        rows, cols = self.shape
        pairs = self.packed.read().view(np.uint8)  # the low half comes first
        q = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(rows, -1)[:, :cols]
        groups = q.reshape(rows, -1, self.group_size).astype(np.float32) - 8.0
        return (groups * _scales(self.name + _SCALE, self.scale)[..., None]).reshape(rows, cols)


def _scales(name: str, entry: hf_files.Entry) -> np.ndarray:
    scales = entry.read().astype(np.float32)
    wrong = scales[~np.isfinite(scales)]
    if wrong.size:
        raise CheckpointError(
            f"{name} has scales that are no numbers, got {wrong[0]}; copy it again"
        )
    return scales


Stored = hf_files.Entry | Float8 | Packed


def group_size(fields: dict[str, Any]) -> int | None:
    """Columns that share a scale in packed matrices; None where config.json has none.

    Raises CheckpointError unless weights are plain or of one of the two kinds.
    """
    said = fields.get("quantization_config")
    if said is None:
        return None
    known = said if isinstance(said, dict) else {}
    if known.get("quant_method") == "compressed-tensors":
        return _group_size(known)
    got = (known.get("quant_method"), known.get("weight_block_size"))
    if got != ("fp8", [BLOCK, BLOCK]):
        raise CheckpointError(
            f"config.json: expected quantisation fp8 in blocks of [{BLOCK}, {BLOCK}] or "
            f"pack-quantized of compressed-tensors, got {shown(got[0])} with weight_block_size "
            f"{shown(got[1])}; import unquantised weights"
        )
    return None


def _group_size(said: dict[str, Any]) -> int:
    if said.get("format") != "pack-quantized":
        raise CheckpointError(
            "config.json: quantization_config: expected format 'pack-quantized', got "
            f"{shown(said.get('format'))}; import unquantised weights"
        )
    hf_fields.check_fixed("quantization_config: ", said, _FIXED)
    groups = said.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1:
        raise CheckpointError(
            f"config.json: quantization_config: expected one of config_groups, got {shown(groups)};"
            " matrices of several kinds cannot be imported"
        )
    ((name, group),) = groups.items()
    where = f"quantization_config: {name}: "
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict):
        raise CheckpointError(f"config.json: {where}expected weights, got {shown(group)}")
    hf_fields.check_fixed(where, group, _FIXED_OF_GROUP)
    hf_fields.check_fixed(where, weights, _FIXED_OF_WEIGHTS)
    size = weights.get("group_size")
    if type(size) is not int or size < 1:
        raise CheckpointError(
            f"config.json: {where}group_size must be a number of columns, got {shown(size)}"
        )
    return size


def gather(entries: dict[str, hf_files.Entry], group_size: int | None) -> dict[str, Stored]:
    """Every matrix under the name that it has when it is not quantised.

    Raises CheckpointError with the name of a tensor whose parts do not fit together.
    """
    found: dict[str, Stored] = {}
    parts: set[str] = set()
    for name, entry in entries.items():
        if name.endswith(_PACKED):
            whole = name.removesuffix(_PACKED)
            found[whole] = _packed(whole, entries, group_size)
            parts |= {whole + part for part in (_PACKED, _SCALE, _SHAPE)}
        elif entry.is_float8:
            found[name] = _float8(name, entries)
            parts |= {name, name + _SCALE_INV}
    return found | {name: entry for name, entry in entries.items() if name not in parts}


def _float8(name: str, entries: dict[str, hf_files.Entry]) -> Float8:
    q = entries[name]
    if len(q.shape) != 2:
        raise CheckpointError(f"{name} is no matrix, so it cannot be float8")
    (scale,) = _parts(name, (_SCALE_INV,), entries)
    _expect(name + _SCALE_INV, scale, tuple(-(-size // BLOCK) for size in q.shape), name)
    return Float8(name, q, scale)


def _packed(name: str, entries: dict[str, hf_files.Entry], group_size: int | None) -> Packed:
    if group_size is None:
        raise CheckpointError(
            f"{name + _PACKED} is packed, of which config.json says nothing; expected a "
            "quantization_config of compressed-tensors: copy config.json again"
        )
    if name in entries:
        raise CheckpointError(f"{name} is there both packed and whole; expected one of them")
    packed, scale, said = _parts(name, (_PACKED, _SCALE, _SHAPE), entries)
    if packed.code != "I32":
        raise CheckpointError(f"{name + _PACKED} must have dtype I32, got {packed.code}")
    if said.code not in hf_files.INTEGERS or said.shape != (2,):
        raise CheckpointError(
            f"{name + _SHAPE} must be two integers, got {said.code} of shape {said.shape}"
        )
    rows, cols = shape = tuple(said.read().tolist())
    if rows < 1 or cols < 1 or cols % group_size:
        raise CheckpointError(
            f"{name + _SHAPE} says {shape}; expected sizes of at least 1, the second a multiple of "
            f"group_size {group_size}"
        )
    if packed.shape != (rows, -(-cols // _PER_WORD)):
        raise CheckpointError(
            f"{name + _PACKED} must have shape {(rows, -(-cols // _PER_WORD))} by {name + _SHAPE}, "
            f"got {packed.shape}"
        )
    _expect(name + _SCALE, scale, (rows, cols // group_size), name)
    return Packed(name, packed, scale, shape, group_size)


def _parts(
    name: str, parts: tuple[str, ...], entries: dict[str, hf_files.Entry]
) -> list[hf_files.Entry]:
    for part in parts:
        if name + part not in entries:
            raise CheckpointError(f"{name} is quantised: missing {name + part}; copy it again")
    return [entries[name + part] for part in parts]


def _expect(name: str, scale: hf_files.Entry, shape: tuple[int, ...], of: str) -> None:
    if scale.code not in hf_files.FLOATS:
        raise CheckpointError(
            f"{name} has dtype {scale.code}; expected one of {', '.join(hf_files.FLOATS)}"
        )
    if scale.shape != shape:
        raise CheckpointError(
            f"{name} must have shape {shape} for the scales of {of}, got {scale.shape}"
        )
