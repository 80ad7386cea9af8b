"""How far the best learning rate moves when a model gets wider.

    log2 rate*(width) = shift log2 width + constant        shift: octaves per doubling

Rates are those of the base width, so a rule of transfer promises a shift of 0. At every width a
parabola of the loss in ln rate is fitted to all runs, seeds among them; the band is that of a wild
bootstrap over runs. Letters: R runs of one width, W widths, D draws.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from kanana_jax.laws import bootstrap, token_axis
from kanana_jax.laws.errors import LawError


@dataclass(frozen=True)
class Losses:
    """Final losses at one width; a seed is a run of its own."""

    rate_R: Float[np.ndarray, "R"]
    loss_R: Float[np.ndarray, "R"]


@dataclass(frozen=True)
class Shift:
    """Octaves by which the best rate moves per doubling of the width."""

    width_W: Float[np.ndarray, "W"]
    rate_W: Float[np.ndarray, "W"]  # best ones; NaN where a parabola has no minimum
    is_bracketed_W: Bool[np.ndarray, "W"]
    octaves: float
    band: bootstrap.Band
    octaves_D: Float[np.ndarray, "D"]
    excess: float  # relative loss of the widest above its least, at the narrowest's best rate

    @property
    def is_bracketed(self) -> bool:
        """Whether rates below and above the best one were run at every width."""
        return bool(self.is_bracketed_W.all())


def shift(sweeps: Mapping[float, Losses], *, num_draws: int = 1000, seed: int = 0) -> Shift:
    """LawError with fewer than two widths or three rates at one of them."""
    if len(sweeps) < 2:
        raise LawError(f"a shift needs two widths or more, got {list(sweeps)}")
    width_W = np.array(sorted(sweeps), float)
    fits, drawn_DW = [], np.empty((num_draws, len(width_W)))
    for number, width in enumerate(width_W):
        sweep = sweeps[width]
        proxies = token_axis.Proxies(sweep.rate_R, np.ones(1), sweep.loss_R[:, None])
        found = token_axis.optima(proxies)
        fits.append((proxies, found))
        drawn_DW[:, number] = np.log2(
            token_axis.drawn_rates(proxies, found, num_draws, seed + number)[:, 0]
        )
    rate_W = np.array([found.rate_T[0] for _, found in fits])
    octaves_D = _slope(width_W, drawn_DW)
    return Shift(
        width_W,
        rate_W,
        np.array([found.is_bracketed_T[0] for _, found in fits]),
        float(_slope(width_W, np.log2(rate_W)[None])[0]),
        bootstrap.band(octaves_D),
        octaves_D,
        _excess(fits[-1][0], fits[-1][1], float(rate_W[0])),
    )


def _slope(width_W, log_rate_DW):
    x_W = np.log2(width_W) - np.log2(width_W).mean()
    return log_rate_DW @ x_W / (x_W @ x_W)


def _excess(proxies: token_axis.Proxies, found: token_axis.Optima, rate: float) -> float:
    """By the parabola: what the rate costs there, as a share of the least loss."""
    best = float(found.rate_T[0])
    if not (math.isfinite(best) and math.isfinite(rate)):
        return math.nan
    curvature = float(found.curvature_T[0])
    least = float(found.fitted_RT[0, 0]) - curvature * math.log(proxies.rate_R[0] / best) ** 2
    return curvature * math.log(rate / best) ** 2 / least
