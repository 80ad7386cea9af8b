"""Writes and reads folders of Hugging Face's PEFT library.

    DIR/adapter_config.json          rank, alpha, and a pattern of the modules that have adapters
    DIR/adapter_model.safetensors    base_model.model.<module>.lora_A.weight    rank x inputs
                                     base_model.model.<module>.lora_B.weight    outputs x rank

Modules are those of the Hugging Face model; experts are modules of their own, as in its files.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kanana_jax import config
from kanana_jax.checkpoint.errors import CheckpointError, shown, some
from kanana_jax.model import lora as adapters
from kanana_jax.weights import hf_files, hf_names, lora, native

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_EVERY = config.LoraConfig(rank=1)  # where adapters can be
# The values at which a further field changes nothing that is read here.
_FIXED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "lora_bias": (False, None),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
}


def write(target: Path, cfg: config.ModelConfig, pairs: lora.Pairs, *, base: str) -> None:
    """Writes `target`, a folder of adapters for the Hugging Face folder of the model `base`."""
    leaves = hf_names.leaves(cfg)
    tensors: dict[str, np.ndarray] = {}
    sizes: dict[str, tuple[int, float]] = {}  # rank and alpha by the pattern of a module's name
    for path, pair in pairs.items():
        for one in leaves[path].tensors:
            module = one.name.removesuffix(".weight")
            sizes[_pattern(module)] = pair.site.rank, round(pair.scale * pair.site.rank, 9)
            for name, x in zip(("lora_A", "lora_B"), _to_theirs(pair, one), strict=True):
                tensors[f"{_PREFIX}{module}.{name}.weight"] = x
    # PEFT joins experts' matrices for transformers 5, and gives them the one rank that it knows.
    first = next((name for name in sizes if r"\.experts" in name), next(iter(sizes)))
    rank, alpha = sizes[first]
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": "|".join(sizes),
        "rank_pattern": {name: own for name, (own, _) in sizes.items() if own != rank},
        "alpha_pattern": {name: own for name, (_, own) in sizes.items() if own != alpha},
        "inference_mode": True,
    }
    planned = [hf_files.Planned(name, x.shape, x.dtype) for name, x in tensors.items()]
    with native.new_directory(target) as folder:
        hf_files.write_file(folder / WEIGHTS_NAME, planned, iter(tensors.values()))
        (folder / CONFIG_NAME).write_text(json.dumps(fields, indent=2))


def read(
    source: Path, cfg: config.ModelConfig, *, is_interleaved: bool = True
) -> dict[str, lora.Pair]:
    """The adapters in a folder, for a model of shape `cfg`; raises CheckpointError.

    `is_interleaved` says whether the Hugging Face model that they were trained beside interleaves
    its rotary columns.
    """
    fields = hf_files.read_json(source / CONFIG_NAME)
    for name, allowed in _FIXED.items():
        if name in fields and fields[name] not in allowed:
            raise CheckpointError(
                f"{source / CONFIG_NAME}: {name} must be {shown(allowed[0])}, got "
                f"{shown(fields[name])}; only plain LoRA of matrices can be read"
            )
    entries = hf_files.read_file(source / WEIGHTS_NAME)
    hf_files.check_dtypes(entries)
    leaves = hf_names.leaves(cfg)
    scaling = _Scaling.of(fields, source)
    found: dict[str, lora.Pair] = {}
    unclaimed = set(entries)
    for path, site in lora.sites(cfg, _EVERY).items():
        parts = {}
        for one in leaves[path].tensors:
            module = one.name.removesuffix(".weight")
            names = [f"{_PREFIX}{module}.{name}.weight" for name in ("lora_A", "lora_B")]
            if names[0] in entries and names[1] in entries:
                unclaimed -= {*names}
                a, b = (entries[name].read().astype(np.float32) for name in names)
                _check_shapes(module, a, b, one)
                parts[one] = a, scaling.of_module(module, len(a)) * b
        if parts:
            found[path] = _to_ours(leaves[path], site, parts, is_interleaved)
    if unclaimed or not found:
        raise CheckpointError(
            f"{source / WEIGHTS_NAME} must hold pairs lora_A and lora_B of this model's matrices, "
            f"got {some(sorted(unclaimed)) or 'none'}; give the model that it was trained beside"
        )
    return found


def _pattern(module: str) -> str:
    """A pattern of a module's name in every layer; an expert's, in each expert or in all as one."""
    name = re.sub(r"\d+", r"\\d+", re.escape(module))
    return name.replace(r"experts\.\d+\.", r"experts\.(\d+\.)?")


class _Scaling(NamedTuple):
    """The factor by which PEFT multiplies a product."""

    alpha: float
    patterns: dict[str, float]
    by_root: bool

    @classmethod
    def of(cls, fields: dict[str, Any], source: Path) -> "_Scaling":
        alpha, patterns = fields.get("lora_alpha"), fields.get("alpha_pattern") or {}
        if not isinstance(alpha, int | float) or not isinstance(patterns, dict):
            raise CheckpointError(
                f"{source / CONFIG_NAME}: expected lora_alpha, a number, got {shown(alpha)}"
            )
        return cls(alpha, patterns, bool(fields.get("use_rslora")))

    def of_module(self, module: str, rank: int) -> float:
        matching = (
            alpha for name, alpha in self.patterns.items() if re.match(rf"(.*\.)?({name})$", module)
        )
        return next(matching, self.alpha) / (rank**0.5 if self.by_root else rank)


def _to_theirs(pair: lora.Pair, one: hf_names.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """lora_A and lora_B of one matrix."""
    rank, a, b = pair.site.rank, pair.a[one.index], pair.b[one.index]
    if one.is_transposed:  # ours has inputs before outputs, so the rank is A's last axis
        made = a.reshape(-1, rank).T, b.reshape(rank, -1).T
    else:
        made = a.reshape(rank, -1), b.reshape(-1, rank)
    return np.ascontiguousarray(made[0]), np.ascontiguousarray(made[1])


def _to_ours(
    leaf: hf_names.Leaf,
    site: adapters.Site,
    parts: dict[hf_names.Tensor, tuple[np.ndarray, np.ndarray]],
    is_interleaved: bool,
) -> lora.Pair:
    """The inverse of `_to_theirs` for all matrices of a leaf; those without adapters have zeros."""
    rank = max(len(a) for a, _ in parts.values())
    # `site` is of rank 1, so its shapes have a 1 where the rank belongs.
    made = []
    for factor in (site.a, site.b):
        place = factor.spec.logical_axes.index("rank")
        made.append(np.zeros((*factor.shape[:place], rank, *factor.shape[place + 1 :]), np.float32))
    for one, (a, b) in parts.items():
        own = len(a)
        a_part, b_part = (x[one.index] for x in made)
        if one.is_transposed:
            a_part[..., :own] = a.T.reshape(*a_part.shape[:-1], own)
            theirs = b.T.reshape(own, *b_part.shape[1:])
            b_part[:own] = theirs if is_interleaved else hf_names.interleave_rotary(leaf, theirs)
        else:
            a_part[:own] = a.reshape(own, *a_part.shape[1:])
            b_part[..., :own] = b.reshape(*b_part.shape[:-1], own)
    a, b = made
    return lora.Pair(a, b, 1.0, site._replace(rank=rank))


def _check_shapes(module: str, a: np.ndarray, b: np.ndarray, one: hf_names.Tensor) -> None:
    outputs, inputs = one.shape
    if a.ndim != 2 or a.shape[1] != inputs or b.shape != (outputs, len(a)):
        raise CheckpointError(
            f"{module}: expected lora_A of (rank, {inputs}) and lora_B of ({outputs}, rank), got "
            f"{a.shape} and {b.shape}; give the model that the adapters were trained beside"
        )
