"""The arrays on which quantisation is tested and timed: what is timed is what is checked.

Letters: M rows, N columns.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pallas_kernels import random_inputs
from pallas_kernels.quantize import formats


class Case(NamedTuple):
    """One array (..., M, N) and the blocks it is cut into; `spoil` writes hostile numbers."""

    name: str
    shape: tuple[int, ...]
    block: formats.Block = formats.ROW_BLOCK
    spoil: Callable[[np.ndarray], None] | None = None
    is_small: bool = True


def _zeros(x):
    x[..., : x.shape[-2] // 2, :] = 0.0


def _outlier(x):
    x[..., 1, 2] = 1e4


def _denormals(x):
    x *= np.float32(1e-39)
    x[..., 0, 0] = 1e-36


def _extremes(x):
    x[..., 0, :] *= np.float32(2.0) ** 124
    x[..., 1, :] *= np.float32(2.0) ** -110
    x[..., 2, :] *= np.float32(2.0) ** -20


def _not_finite(x):
    x[..., 0, 0], x[..., 1, 1], x[..., 2, 2] = np.nan, np.inf, -np.inf


_ROW, _COLUMN, _SQUARE = formats.ROW_BLOCK, formats.COLUMN_BLOCK, formats.SQUARE_BLOCK
# Small cases of equal shape share one compilation.
CASES = (
    Case("rows", (6, 256)),
    Case("rows_odd", (5, 200)),
    Case("rows_narrow", (4, 12)),
    Case("columns_odd", (200, 5), _COLUMN),
    Case("squares_odd", (3, 130, 70), _SQUARE),
    Case("whole", (2, 10, 30), None),
    Case("zeros", (6, 256), _ROW, _zeros),
    Case("outlier", (6, 256), _ROW, _outlier),
    Case("denormals", (6, 256), _ROW, _denormals),
    Case("extremes", (6, 256), _ROW, _extremes),
    Case("not_finite", (6, 256), _ROW, _not_finite),
    Case("kanana_2_30b_tokens", (8192, 2048), is_small=False),
    Case("kanana_2_30b_rows", (49_152, 1536), is_small=False),
    Case("kanana_2_30b_experts", (128, 1536, 2048), _SQUARE, is_small=False),
)
SMALL_CASES = tuple(case for case in CASES if case.is_small)
BENCHMARK_CASES = tuple(case for case in CASES if not case.is_small)


def make_inputs(case: Case, seed: int = 0) -> tuple[np.ndarray]:
    """Draws the float32 array of a case, the same one for the same seed."""
    x = random_inputs.normal(np.random.default_rng(seed), *case.shape)
    if case.spoil:
        case.spoil(x)
    return (x,)
