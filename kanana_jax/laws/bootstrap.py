"""Intervals by the wild bootstrap, run by run.

Losses read along one run share its luck, so all residuals of a run are multiplied by the same
random number w and added to the fitted values: y* = fit + w sqrt(n / (n - p)) residual. The numbers
are Webb's (Queen's Economics Department Working Paper 1315), six values, as there are few runs.

Letters: D draws, C runs (clusters).
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

COVERAGE = 0.95
_WEBB = np.array([-math.sqrt(1.5), -1.0, -math.sqrt(0.5), math.sqrt(0.5), 1.0, math.sqrt(1.5)])


class Band(NamedTuple):
    """The middle COVERAGE of bootstrap draws."""

    low: float
    high: float


def weights(num_draws: int, num_runs: int, seed: int) -> Float[np.ndarray, "D C"]:
    """Random weights of mean 0 and variance 1."""
    return np.random.default_rng(seed).choice(_WEBB, size=(num_draws, num_runs))


def inflation(num_points: int, num_parameters: int) -> float:
    """The factor for residuals, which a fit makes smaller than the noise was."""
    return math.sqrt(num_points / (num_points - num_parameters))


def band(draws_D: Float[np.ndarray, "D"]) -> Band:
    """The band of the draws that are finite; NaN where none is."""
    finite_D = np.asarray(draws_D)[np.isfinite(draws_D)]
    if not finite_D.size:
        return Band(math.nan, math.nan)
    low, high = np.quantile(finite_D, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Band(float(low), float(high))
