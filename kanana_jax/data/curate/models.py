"""Measures by a model folder, found by name because data knows no model (docs/architecture.md).

measure(texts) -> an array with a row for each        kanana_jax/evaluate/document_scores.py
"""

import functools
import pathlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

_MODULE = "kanana_jax.evaluate.document_scores"
Kind = Literal["bits_per_byte", "states"]


def told(folder: str, kind: Kind) -> Mapping[str, Any]:
    """Settings that tell one model from another; CheckpointError where the model cannot measure."""
    pkgutil.resolve_name(f"{_MODULE}:expect_{kind}")(folder)
    files = sorted(one for one in pathlib.Path(folder).rglob("*") if one.is_file())
    return {"model": folder, "model_bytes": sum(one.stat().st_size for one in files)}


@functools.cache
def measure(kind: Kind, folder: str) -> Callable[[Sequence[str]], np.ndarray]:
    """Loads the model once."""
    return pkgutil.resolve_name(f"{_MODULE}:{kind}")(folder)
