"""Fits a law in two ways that must agree.

    direct        L-BFGS over all parameters
    projected     L-BFGS over theta; for each theta the best E, A and B are found (variable
                  projection), so that the search has three dimensions fewer

Both start from the grid of the form's starts and go on from the best few. Gradients are JAX's.
"""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import optimize

from kanana_jax.laws import gauss_newton, objective
from kanana_jax.laws.errors import LawError
from kanana_jax.laws.forms import Form, Law, Points

NUM_POLISHED = 3  # starts that are followed to the end
LOG_EAB = (-60.0, 60.0)
_MOST_RESTARTS = 4
Method = Literal["direct", "projected"]


@dataclass(frozen=True)
class Fit:
    """A law, and how the search ended: print `message` where `is_converged` is false."""

    law: Law
    vector: Float[np.ndarray, "X"]
    objective: float
    is_converged: bool
    message: str
    num_evaluations: int
    residual_P: Float[np.ndarray, "P"]  # of ln loss, observed less fitted


def fit(
    form: Form,
    points: Points,
    loss_P: Any,
    *,
    method: Method = "projected",
    start: Any = None,
    delta: float = objective.DELTA,
) -> Fit:
    """The law of least summed Huber loss. `start` is the vector of another fit, in place of a grid.

    LawError unless there are more points than parameters and all losses are positive.
    """
    loss_P = np.asarray(loss_P, np.float64)
    if loss_P.shape != (len(points),) or not np.all(np.isfinite(loss_P) & (loss_P > 0)):
        raise LawError(f"expected {len(points)} positive losses, got {loss_P}")
    if len(loss_P) <= len(form.names):
        raise LawError(
            f"{form.name} has {len(form.names)} parameters and needs more points than that, got "
            f"{len(loss_P)}"
        )
    search = {"direct": _direct, "projected": _projected}[method]
    with jax.enable_x64(True):
        return search(form, points, np.log(loss_P), start, delta)


def _direct(form: Form, points: Points, log_loss_P, start, delta) -> Fit:
    evaluate = functools.partial(_all_at_once, form, points, log_loss_P, delta)
    starts = [start]
    if start is None:
        found = [_projection(form, points, log_loss_P, delta, one) for one in _grid(form)]
        starts = [np.concatenate([log_eab, theta]) for _, log_eab, theta in _best(found)]
    limits = [LOG_EAB] * 3 + bounds(form)
    ended = [_minimize(lambda x: tuple(map(np.asarray, evaluate(x))), x, limits) for x in starts]
    best = min(ended, key=lambda one: one.fun)
    return _as_fit(form, points, log_loss_P, best.x, ended)


def _projected(form: Form, points: Points, log_loss_P, start, delta) -> Fit:
    def evaluate(theta):
        value, gradient, _ = _project(form, points, log_loss_P, delta, theta)
        return np.asarray(value), np.asarray(gradient)

    starts = [None if start is None else start[3:]]
    if start is None:
        found = [_projection(form, points, log_loss_P, delta, one) for one in _grid(form)]
        starts = [theta for *_, theta in _best(found)]
    ended = [_minimize(evaluate, theta, bounds(form)) for theta in starts]
    best = min(ended, key=lambda one: one.fun)
    _, _, log_eab = _project(form, points, log_loss_P, delta, best.x)
    vector = np.concatenate([np.asarray(log_eab), best.x])
    return _as_fit(form, points, log_loss_P, vector, ended)


def _minimize(evaluate: Callable, start: Any, limits: list) -> Any:
    """L-BFGS, restarted where it stopped until that gains nothing: its memory goes stale."""
    options = {"maxiter": 3000, "maxfun": 6000, "ftol": 1e-14, "gtol": 1e-7, "maxcor": 30}

    def search(x):
        return optimize.minimize(
            evaluate, x, jac=True, method="L-BFGS-B", bounds=limits, options=options
        )

    found = search(start)
    num_evaluations, gained, least = found.nfev, math.inf, max(1.0, abs(found.fun))
    for _ in range(_MOST_RESTARTS):
        again = search(found.x)
        num_evaluations += again.nfev
        gained = found.fun - again.fun
        found = again if gained > 0 else found
        if gained <= 1e-9 * least:
            break
    found.nfev = num_evaluations
    found.has_settled = gained <= 1e-6 * least
    return found


def _as_fit(form, points, log_loss_P, vector, ended) -> Fit:
    best = min(ended, key=lambda one: one.fun)
    fitted_P = np.asarray(objective.log_loss(form, jnp.asarray(vector), points))
    return Fit(
        objective.as_law(form, vector, points),
        np.asarray(vector),
        float(best.fun),
        bool(best.has_settled),
        str(best.message),
        sum(one.nfev for one in ended),
        log_loss_P - fitted_P,
    )


def _grid(form: Form) -> list[Float[np.ndarray, "T"]]:
    return [*map(form.internal, itertools.product(*(theta.starts for theta in form.thetas)))]


def bounds(form: Form) -> list[tuple[float, float]]:
    """Bounds of theta, as it is fitted."""
    lower_T, upper_T = (
        form.internal([getattr(one, end) for one in form.thetas]) for end in ("lower", "upper")
    )
    return list(zip(lower_T.tolist(), upper_T.tolist(), strict=True))


def _best(found: list) -> list:
    return sorted(found, key=lambda one: one[0])[:NUM_POLISHED]


def _projection(form, points, log_loss_P, delta, theta):
    value, _, log_eab = _project(form, points, log_loss_P, delta, theta)
    return float(value), np.asarray(log_eab), theta


@functools.partial(jax.jit, static_argnums=0)
def _all_at_once(form, points, log_loss_P, delta, vector):
    def value(vector):
        return objective.huber(objective.log_loss(form, vector, points) - log_loss_P, delta)

    return jax.value_and_grad(value)(vector)


@functools.partial(jax.jit, static_argnums=0)
def _project(form, points, log_loss_P, delta, theta):
    """(objective, its gradient by theta, ln of the best E, A and B).

    At the best E, A and B the objective does not change with them, so its gradient by theta is
    the one with them fixed.
    """
    log_eab = _best_eab(objective.centered(form, theta, points), log_loss_P, delta)

    def value(theta):
        parts_P3 = objective.log_parts(log_eab, objective.centered(form, theta, points))
        return objective.huber(jax.nn.logsumexp(parts_P3, axis=-1) - log_loss_P, delta)

    return *jax.value_and_grad(value)(theta), log_eab


def _best_eab(log_fg_P2, log_loss_P, delta):
    def predict(log_eab):
        return jax.nn.logsumexp(objective.log_parts(log_eab, log_fg_P2), axis=-1)

    start = jnp.full(3, jnp.log(jnp.mean(jnp.exp(log_loss_P)) / 3.0))
    return gauss_newton.minimize(predict, start, log_loss_P, delta, *LOG_EAB)
