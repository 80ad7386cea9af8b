"""How well confidence predicts correctness.

    ECE    =  sum over bins  (n_b / N) |mean confidence_b - share right_b|        bins of equal mass
    Brier  =  mean (confidence - is_right)^2
    T      =  argmin  mean NLL of is_right under sigmoid(logit / T)

Equal-mass bins each hold the same number of answers, so none is empty and none is judged by a
handful (arXiv:1909.10155). Equal confidences share a bin, whatever the order of the answers. The
temperature follows arXiv:1706.04599 and applies to the log-odds of a confidence.

Letters: N answers, B bins.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize, special

from kanana_jax.config import ConfigError

NUM_BINS = 10
_NUM_RESAMPLES = 200
_SMALLEST = 1e-6  # a confidence of 0 or 1 has no finite log-odds
_LOG_TEMPERATURES = (-4.0, 4.0)  # bounds of the search, natural logarithms


class Reliability(NamedTuple):
    """The answers binned by confidence, the least confident bin first."""

    confidence_B: Float[np.ndarray, "B"]  # means
    accuracy_B: Float[np.ndarray, "B"]
    count_B: Float[np.ndarray, "B"]


class Calibration(NamedTuple):
    ece: float
    ece_stderr: float  # by resampling the answers, with a fixed seed
    brier: float
    accuracy: float
    confidence: float  # mean


def reliability(
    confidence_N: Float[np.ndarray, "N"],
    is_right_N: Bool[np.ndarray, "N"],
    num_bins: int = NUM_BINS,
) -> Reliability:
    """At most `num_bins` bins of equal mass; fewer where many answers are equally confident."""
    confidence_N, is_right_N = _checked(confidence_N, is_right_N)
    order = np.argsort(confidence_N, kind="stable")
    sorted_N, right_N = confidence_N[order], is_right_N[order].astype(np.float64)
    # Where the k-th part would begin, moved back to the first answer of equal confidence.
    wanted = np.arange(num_bins) * len(sorted_N) // num_bins
    starts = np.unique(np.searchsorted(sorted_N, sorted_N[wanted], side="left"))
    count_B = np.diff(np.append(starts, len(sorted_N))).astype(np.float64)
    return Reliability(
        confidence_B=np.add.reduceat(sorted_N, starts) / count_B,
        accuracy_B=np.add.reduceat(right_N, starts) / count_B,
        count_B=count_B,
    )


def measure(
    confidence_N: Float[np.ndarray, "N"],
    is_right_N: Bool[np.ndarray, "N"],
    num_bins: int = NUM_BINS,
) -> Calibration:
    """The figures at the top of the module. ConfigError unless confidences lie in [0, 1]."""
    confidence_N, is_right_N = _checked(confidence_N, is_right_N)
    rng = np.random.default_rng(0)
    picks = rng.integers(len(confidence_N), size=(_NUM_RESAMPLES, len(confidence_N)))
    resampled = [_ece(confidence_N[pick], is_right_N[pick], num_bins) for pick in picks]
    return Calibration(
        ece=_ece(confidence_N, is_right_N, num_bins),
        ece_stderr=float(np.std(resampled, ddof=1)),
        brier=float(np.mean((confidence_N - is_right_N) ** 2)),
        accuracy=float(is_right_N.mean()),
        confidence=float(confidence_N.mean()),
    )


def fit_temperature(
    confidence_N: Float[np.ndarray, "N"], is_right_N: Bool[np.ndarray, "N"]
) -> float:
    """The temperature at the top of the module; over 1 where answers are too confident.

    Fit it on answers other than those that are measured.
    """
    confidence_N, is_right_N = _checked(confidence_N, is_right_N)
    logit_N = log_odds(confidence_N)
    sign_N = np.where(is_right_N, 1.0, -1.0)

    def nll(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, -sign_N * logit_N / np.exp(log_temperature)).mean())

    found = optimize.minimize_scalar(nll, bounds=_LOG_TEMPERATURES, method="bounded")
    return float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue]


def tempered(confidence_N: Float[np.ndarray, "N"], temperature: float) -> Float[np.ndarray, "N"]:
    """Confidences at a temperature; their order is kept."""
    return special.expit(log_odds(confidence_N) / temperature)


def log_odds(confidence_N: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    clipped_N = np.clip(confidence_N, _SMALLEST, 1.0 - _SMALLEST)
    return np.log(clipped_N) - np.log1p(-clipped_N)


def _ece(confidence_N: np.ndarray, is_right_N: np.ndarray, num_bins: int) -> float:
    bins = reliability(confidence_N, is_right_N, num_bins)
    gaps_B = np.abs(bins.confidence_B - bins.accuracy_B)
    return float((bins.count_B * gaps_B).sum() / bins.count_B.sum())


def _checked(confidence_N: np.ndarray, is_right_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidence_N = np.asarray(confidence_N, np.float64)
    is_right_N = np.asarray(is_right_N, bool)
    in_range = bool(((confidence_N >= 0) & (confidence_N <= 1)).all())
    if confidence_N.shape != is_right_N.shape or not confidence_N.size or not in_range:
        raise ConfigError(
            "expected confidences in [0, 1] and as many answers that are right or not, one or "
            f"more; got shapes {confidence_N.shape} and {is_right_N.shape}, "
            f"confidences {confidence_N[:4]}"
        )
    return confidence_N, is_right_N
