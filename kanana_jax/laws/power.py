"""What a design can decide, from a pilot: asked before the machine time is spent.

    paired t test of K seeds     t = mean difference / (sd / sqrt(K)), noncentral where there is one
    a law's parameters           covariance = sigma^2 (J^T J)^-1,       J = d ln L / d parameters

The standard deviation of a pilot of few seeds is itself a guess. The true one may be above
`Pilot.sd_high` once in ten times, so a design that decides with that is safe. Letters: K seeds,
P points, X parameters.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats

from kanana_jax.laws.errors import LawError
from kanana_jax.laws.forms import Law, Points

COVERAGE, POWER = 0.95, 0.8
_CAUTION = 0.9  # one-sided confidence of `sd_high`
_MOST_SEEDS = 1000
_STEP = 1e-5


class Pilot(NamedTuple):
    """Statistics of differences between two arms, paired by seed."""

    mean: float
    sd: float
    sd_high: float


def pilot(one_K: Float[np.ndarray, "K"], other_K: Float[np.ndarray, "K"]) -> Pilot:
    """LawError with fewer than two seeds, which have no spread."""
    one_K, other_K = np.asarray(one_K, float), np.asarray(other_K, float)
    if one_K.shape != other_K.shape or one_K.size < 2:
        raise LawError(
            f"a pilot needs the same two seeds or more of both arms, got {one_K.size} and "
            f"{other_K.size} losses"
        )
    freedom = one_K.size - 1
    sd = float((one_K - other_K).std(ddof=1))
    wide = math.sqrt(freedom / float(stats.chi2.ppf(1 - _CAUTION, freedom)))
    return Pilot(float((one_K - other_K).mean()), sd, sd * wide)


def smallest_difference(
    sd: float, num_seeds: int, *, coverage: float = COVERAGE, power: float = POWER
) -> float:
    """The difference that a paired two-sided test detects with probability `power`."""
    if num_seeds < 2:
        raise LawError(f"a band over seeds needs two or more, got {num_seeds}")
    root = math.sqrt(num_seeds)
    limit = float(stats.t.ppf((1 + coverage) / 2, num_seeds - 1))

    def excess(effect: float) -> float:
        rejected = stats.ncf.sf(limit**2, 1, num_seeds - 1, num_seeds * effect**2)
        return float(rejected) - power

    most = 1.0 / root  # standard errors; far beyond the root the distribution has no digits
    while excess(most) < 0:
        most *= 1.5
    return sd * optimize.root_scalar(excess, bracket=(0.0, most)).root


def seeds_needed(
    sd: float, difference: float, *, coverage: float = COVERAGE, power: float = POWER
) -> int:
    """The fewest seeds that detect `difference`; LawError where a thousand do not."""
    if not difference > 0 or not sd > 0:
        raise LawError(f"difference and sd must be positive, got {difference} and {sd}")
    options = {"coverage": coverage, "power": power}
    if smallest_difference(sd, _MOST_SEEDS, **options) > difference:
        raise LawError(
            f"more than {_MOST_SEEDS} seeds are needed for {difference:g} at a standard deviation "
            f"of {sd:g}; ask for a larger difference, or make runs longer and alike"
        )
    low, high = 2, _MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        enough = smallest_difference(sd, middle, **options) <= difference
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def parameter_errors(law: Law, points: Points, sigma: float) -> dict[str, float]:
    """Standard deviations of parameters fitted to losses whose logarithm has the noise `sigma`.

    To first order and for least squares. LawError where the points leave a parameter open.
    """
    names = list(law.values)
    slope_PX = np.stack([_slope(law, points, name) for name in names], axis=-1)
    size_X = np.linalg.norm(slope_PX, axis=0)
    if not np.all(size_X > 0):
        idle = [name for name, size in zip(names, size_X, strict=True) if not size > 0]
        raise LawError(f"no loss of this design depends on {', '.join(idle)}")
    scaled_PX = slope_PX / size_X  # parameters differ by orders of magnitude
    if np.linalg.cond(scaled_PX) > 1e10:
        raise LawError("this design leaves parameters open; laws.design.check names them")
    variance_X = np.diag(np.linalg.inv(scaled_PX.T @ scaled_PX)) / size_X**2
    return dict(zip(names, (sigma * np.sqrt(variance_X)).tolist(), strict=True))


def _slope(law: Law, points: Points, name: str) -> Any:
    value = law.values[name]
    step = _STEP * max(abs(value), 0.1)
    high, low = (
        Law(law.form, {**law.values, name: value + sign * step}).loss(points) for sign in (1, -1)
    )
    return (np.log(high) - np.log(low)) / (2 * step)
