"""A power law y = exp(intercept) x^slope, as a line through logarithms."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from kanana_jax.laws.errors import LawError


@dataclass(frozen=True)
class Line:
    """ln y = slope ln x + intercept; `r2` is the share of the variance of ln y that it explains."""

    slope: float
    intercept: float
    r2: float

    def at(self, x: float | Float[np.ndarray, "N"]) -> Float[np.ndarray, "*N"]:
        return np.exp(self.slope * np.log(x) + self.intercept)


def fit(x_N: Float[np.ndarray, "N"], y_N: Float[np.ndarray, "N"]) -> Line:
    """Least squares on logarithms. LawError with fewer than two distinct x, or any that is not
    positive."""
    x_N, y_N = np.asarray(x_N, float), np.asarray(y_N, float)
    if len(np.unique(x_N)) < 2 or not np.all((x_N > 0) & (y_N > 0)):
        raise LawError(
            f"a power law needs two or more distinct positive x and positive y, got x = {x_N} and "
            f"y = {y_N}"
        )
    log_x_N, log_y_N = np.log(x_N), np.log(y_N)
    center = log_x_N.mean()
    slope = float((log_x_N - center) @ log_y_N / ((log_x_N - center) @ (log_x_N - center)))
    intercept = float(log_y_N.mean() - slope * center)
    rest_N, spread_N = log_y_N - slope * log_x_N - intercept, log_y_N - log_y_N.mean()
    spread = float(spread_N @ spread_N)
    return Line(slope, intercept, 1.0 - float(rest_N @ rest_N) / spread if spread else 1.0)
