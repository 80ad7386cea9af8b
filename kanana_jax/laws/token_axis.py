"""The best learning rate of a long run from short ones at constant rates (arXiv:2608.20061, 2.2).

    L = a x^2 + b x + c        x = ln rate, at every budget of tokens
    ln rate* = beta ln tokens + gamma                      rate* = exp(-b / 2a)

Every proxy keeps its rate and averages its weights, so each of its points is the end of a run of
that budget. Letters: R runs, T budgets, D draws.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from kanana_jax.laws import bootstrap, lines
from kanana_jax.laws.errors import LawError

MIN_RATES, MIN_BUDGETS = 3, 3
# Draws without a best rate would make a band look narrower than it is.
_MOST_FAILED = 0.2


@dataclass(frozen=True)
class Proxies:
    """Losses of runs at constant rates, read at the same budgets. A seed is a run of its own."""

    rate_R: Float[np.ndarray, "R"]
    tokens_T: Float[np.ndarray, "T"]
    loss_RT: Float[np.ndarray, "R T"]

    def __post_init__(self):
        wanted = (len(self.rate_R), len(self.tokens_T))
        if self.loss_RT.shape != wanted:
            raise LawError(
                f"losses must have shape (runs, budgets) = {wanted}, got {self.loss_RT.shape}"
            )
        if not np.all(np.isfinite(self.loss_RT)):
            raise LawError(
                "every run needs a finite loss at every budget; leave out those that "
                "diverged or ended early"
            )
        rates = np.unique(self.rate_R)
        if len(rates) < MIN_RATES or rates[0] <= 0:
            raise LawError(
                f"a parabola needs {MIN_RATES} or more distinct positive rates, got {rates}; "
                "train proxies at more rates"
            )
        if np.any(np.diff(self.tokens_T) <= 0) or np.any(self.tokens_T <= 0):
            raise LawError(f"budgets must be positive and increase, got {self.tokens_T}")

    def at(self, keep_T: Bool[np.ndarray, "T"]) -> "Proxies":
        """The proxies at the budgets in `keep_T`."""
        return Proxies(self.rate_R, self.tokens_T[keep_T], self.loss_RT[:, keep_T])


@dataclass(frozen=True)
class Optima:
    """The parabola of every budget and its best rate, NaN where it opens downwards."""

    tokens_T: Float[np.ndarray, "T"]
    curvature_T: Float[np.ndarray, "T"]  # a
    rate_T: Float[np.ndarray, "T"]
    is_bracketed_T: Bool[np.ndarray, "T"]  # rates below and above the best one were run
    fitted_RT: Float[np.ndarray, "R T"]


@dataclass(frozen=True)
class HeldOut:
    """Budgets that a law did not see."""

    tokens_T: Float[np.ndarray, "T"]
    predicted_T: Float[np.ndarray, "T"]
    actual_T: Float[np.ndarray, "T"]

    @property
    def errors_T(self) -> Float[np.ndarray, "T"]:
        """Relative errors."""
        return np.abs(self.predicted_T / self.actual_T - 1)

    @property
    def mean_error(self) -> float:
        return float(self.errors_T.mean())


@dataclass(frozen=True)
class Extrapolation:
    """The law and what it says about one budget; bands are NaN where no residual is left."""

    law: lines.Line  # slope: beta, intercept: gamma
    tokens: float
    rate: float
    rate_band: bootstrap.Band
    beta_band: bootstrap.Band
    num_runs: int
    share_failed: float  # of bootstrap draws: those without a best rate at some budget


def optima(proxies: Proxies) -> Optima:
    """Least squares at every budget. Budgets without a minimum have no rate, and are not hidden."""
    coefficients_3T, fitted_RT = _parabolas(proxies.rate_R, proxies.loss_RT)
    center = np.log(proxies.rate_R).mean()
    rate_T = np.exp(_vertices(coefficients_3T) + center)
    low, high = proxies.rate_R.min(), proxies.rate_R.max()
    is_bracketed_T = (low < rate_T) & (rate_T < high)
    return Optima(proxies.tokens_T, coefficients_3T[0], rate_T, is_bracketed_T, fitted_RT)


def law(found: Optima) -> lines.Line:
    """ln rate* against ln tokens, over bracketed budgets.

    LawError with fewer than MIN_BUDGETS of them: a vertex outside the sweep is an extrapolation.
    """
    kept_T = found.is_bracketed_T
    if kept_T.sum() < MIN_BUDGETS:
        raise LawError(
            f"the law needs {MIN_BUDGETS} or more budgets whose best rate lies inside the sweep, "
            f"got {int(kept_T.sum())} of {len(kept_T)}; best rates are {found.rate_T}"
        )
    return lines.fit(found.tokens_T[kept_T], found.rate_T[kept_T])


def extrapolate(
    proxies: Proxies, tokens: float, *, num_draws: int = 1000, seed: int = 0
) -> Extrapolation:
    """The best rate at `tokens`, with the band of a wild bootstrap over runs.

    The band covers the noise of the proxies. That the law goes on beyond them is assumed;
    `hold_out` tests that. LawError where more than a fifth of the draws have no best rate.
    """
    found = optima(proxies)
    line, num_runs = law(found), len(proxies.rate_R)
    nothing = bootstrap.Band(math.nan, math.nan)
    if num_runs == MIN_RATES:
        rate = float(line.at(tokens))
        return Extrapolation(line, tokens, rate, nothing, nothing, num_runs, math.nan)
    beta_D, rate_D = _draws(proxies, found, tokens, num_draws, seed)
    share_failed = float(np.mean(~np.isfinite(rate_D)))
    if share_failed > _MOST_FAILED:
        raise LawError(
            f"{share_failed:.0%} of bootstrap draws have no best rate at some budget: the curves "
            "are too flat for their noise; train more seeds, or rates that lie further apart"
        )
    bands = bootstrap.band(rate_D), bootstrap.band(beta_D)
    return Extrapolation(line, tokens, float(line.at(tokens)), *bands, num_runs, share_failed)


def hold_out(found: Optima, share: float = 0.3) -> HeldOut:
    """Fits all bracketed budgets but the last `share` of them, and predicts those."""
    kept_T = np.flatnonzero(found.is_bracketed_T)
    num_out = max(1, round(share * len(kept_T)))
    seen_T, out_T = kept_T[:-num_out], kept_T[-num_out:]
    if len(seen_T) < MIN_BUDGETS:
        raise LawError(
            f"{MIN_BUDGETS} or more budgets must be left to fit, got {len(seen_T)} beside "
            f"{num_out} held out; read the proxies at more budgets"
        )
    line = lines.fit(found.tokens_T[seen_T], found.rate_T[seen_T])
    tokens_T = found.tokens_T[out_T]
    return HeldOut(tokens_T, line.at(tokens_T), found.rate_T[out_T])


def _parabolas(rate_R, loss_RT):
    """Coefficients in the logarithm of the rate less its mean, and the fitted losses."""
    x_R = np.log(rate_R) - np.log(rate_R).mean()
    design_R3 = np.stack([x_R**2, x_R, np.ones_like(x_R)], axis=1)
    coefficients_3T, *_ = np.linalg.lstsq(design_R3, loss_RT, rcond=None)
    return coefficients_3T, design_R3 @ coefficients_3T


def _vertices(coefficients_3T):
    a_T, b_T, _ = coefficients_3T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(a_T > 0, -b_T / (2 * a_T), np.nan)


def drawn_rates(
    proxies: Proxies, found: Optima, num_draws: int, seed: int
) -> Float[np.ndarray, "D T"]:
    """Best rates of every budget under other luck of the runs; NaN where a draw has none."""
    num_runs, num_budgets = found.fitted_RT.shape
    if num_runs <= MIN_RATES:
        return np.full((num_draws, num_budgets), np.nan)
    weight_DR = bootstrap.weights(num_draws, num_runs, seed)
    weight_DR = weight_DR * bootstrap.inflation(num_runs, 3)
    residual_RT = proxies.loss_RT - found.fitted_RT
    loss_RDT = found.fitted_RT[:, None] + weight_DR.T[..., None] * residual_RT[:, None]
    coefficients, _ = _parabolas(proxies.rate_R, loss_RDT.reshape(num_runs, -1))
    vertex_DT = _vertices(coefficients).reshape(num_draws, num_budgets)
    return np.exp(vertex_DT + np.log(proxies.rate_R).mean())


def _draws(proxies: Proxies, found: Optima, tokens: float, num_draws: int, seed: int):
    """beta and the rate at `tokens`, of every draw, over bracketed budgets."""
    kept_T = found.is_bracketed_T
    log_rate_DT = np.log(drawn_rates(proxies, found, num_draws, seed)[:, kept_T])
    log_tokens_T = np.log(proxies.tokens_T[kept_T])
    centered_T = log_tokens_T - log_tokens_T.mean()
    beta_D = log_rate_DT @ centered_T / (centered_T @ centered_T)
    ahead = math.log(tokens) - log_tokens_T.mean()
    return beta_D, np.exp(log_rate_DT.mean(1) + beta_D * ahead)
