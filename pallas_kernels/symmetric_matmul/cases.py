"""The problems on which symmetric products are tested and timed: what is timed is what is checked.

Letters: B batch, M side of the result, K contracted width.
"""

from typing import Literal, NamedTuple

import numpy as np

from pallas_kernels import random_inputs

type Kind = Literal["gram", "polynomial", "commuting"]


class Case(NamedTuple):
    """One product: X X^T, a I + b R + c R R, or the product of two polynomials of one matrix."""

    name: str
    kind: Kind
    batch: int
    size: int
    width: int
    is_small: bool = True


CASES = (
    Case("gram", "gram", 3, 24, 40),
    Case("gram_odd", "gram", 2, 13, 7),
    Case("gram_one", "gram", 1, 1, 1),
    Case("gram_tall", "gram", 2, 48, 8),
    Case("polynomial", "polynomial", 3, 24, 24),
    Case("commuting", "commuting", 3, 24, 24),
    Case("kanana_2_30b_gram", "gram", 128, 768, 2048, False),
    Case("kanana_2_30b_polynomial", "polynomial", 128, 768, 768, False),
    Case("kanana_2_30b_commuting", "commuting", 128, 768, 768, False),
    Case("square_4096_gram", "gram", 1, 4096, 4096, False),
    Case("wide_gram", "gram", 16, 2048, 8192, False),
    Case("wide_polynomial", "polynomial", 16, 2048, 2048, False),
    Case("square_2048_gram", "gram", 8, 2048, 2048, False),
)
SMALL_CASES = tuple(case for case in CASES if case.is_small)
BENCHMARK_CASES = tuple(case for case in CASES if not case.is_small)


class Inputs(NamedTuple):
    """Float32 numpy arrays (or None) and factors, in the order of symmetric_matmul."""

    lhs: np.ndarray
    rhs: np.ndarray | None
    addend: np.ndarray | None
    factors: dict[str, float]


def make_inputs(case: Case, seed: int = 0) -> Inputs:
    """Draws the inputs of a case, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    shape = case.batch, case.size, case.width
    x = random_inputs.normal(rng, *shape) * np.float32(case.width**-0.5)
    if case.kind == "gram":
        return Inputs(x, None, None, {})
    gram = x @ x.swapaxes(1, 2)
    if case.kind == "polynomial":
        return Inputs(gram, None, gram, dict(scale=0.5, addend_scale=-2.0, diagonal=4.0))
    return Inputs(gram, np.eye(case.size, dtype=np.float32) - 0.25 * gram, None, {})
