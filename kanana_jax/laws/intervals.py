"""Intervals of a fitted law, by refits to losses with other luck (see `bootstrap`).

Letters: D draws, X parameters, P points.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from kanana_jax.laws import bootstrap, fitting, gauss_newton, objective
from kanana_jax.laws.errors import LawError
from kanana_jax.laws.forms import Form, Law, Points


@dataclass(frozen=True)
class Intervals:
    """Bands of every parameter, and the laws of the draws for numbers that depend on several."""

    bands: Mapping[str, bootstrap.Band]
    laws: tuple[Law, ...]

    def of(self, function: Any) -> bootstrap.Band:
        """The band of a number that `function` reads off a law."""
        return bootstrap.band(np.array([function(law) for law in self.laws]))


def of_fit(
    found: fitting.Fit,
    points: Points,
    *,
    runs_P: Any = None,
    num_draws: int = 200,
    seed: int = 0,
    delta: float = objective.DELTA,
) -> Intervals:
    """95 % intervals. `runs_P` names the run of each point; None: every point is one.

    LawError with fewer than two runs.
    """
    form = found.law.form
    names, run_P = np.unique(
        np.arange(len(points)) if runs_P is None else np.asarray(runs_P), return_inverse=True
    )
    if len(names) < 2 or len(run_P) != len(points):
        raise LawError(
            f"runs_P must name the runs of {len(points)} points, two or more of them; got "
            f"{len(run_P)} names of {len(names)} runs"
        )
    residual_P = found.residual_P * bootstrap.inflation(len(points), len(form.names))
    luck_DP = bootstrap.weights(num_draws, len(names), seed)[:, run_P] * residual_P
    with jax.enable_x64(True):
        fitted_P = np.asarray(objective.log_loss(form, jnp.asarray(found.vector), points))
        drawn_DX = _refit(form, points, found.vector, fitted_P + luck_DP, delta)
    laws = tuple(objective.as_law(form, one_X, points) for one_X in np.asarray(drawn_DX))
    bands = {name: bootstrap.band(np.array([law[name] for law in laws])) for name in form.names}
    return Intervals(bands, laws)


@functools.partial(jax.jit, static_argnums=0)
def _refit(form: Form, points: Points, start_X: Any, log_loss_DP: Any, delta: Any):
    limits_X2 = np.array([fitting.LOG_EAB] * 3 + fitting.bounds(form))

    def one(log_loss_P) -> Float[jax.Array, "X"]:
        def predict(vector):
            return objective.log_loss(form, vector, points)

        return gauss_newton.minimize(
            predict, jnp.asarray(start_X), log_loss_P, delta, limits_X2[:, 0], limits_X2[:, 1]
        )

    return jax.vmap(one)(log_loss_DP)
