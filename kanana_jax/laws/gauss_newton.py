"""Least summed Huber loss by damped Gauss-Newton steps, compiled whole and mapped over draws."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kanana_jax.laws import objective

_MOST_STEPS = 300
_LARGEST_MOVE = 2.0  # of a parameter in one step: all are logarithms, exponents or weights


def minimize(
    predict: Callable[[Array], Array],
    start_X: Float[Array, "X"],
    log_loss_P: Float[Array, "P"],
    delta: Any,
    lower: Any,
    upper: Any,
) -> Float[Array, "X"]:
    """The parameters near `start_X` whose `predict` is nearest to `log_loss_P`.

    Every step solves least squares with the weights that Huber's loss gives the residuals of the
    step before (IRLS). It is taken where the objective falls; otherwise the damping grows.
    """

    def value_at(x_X):
        return objective.huber(predict(x_X) - log_loss_P, delta)

    def step(carry):
        count, x_X, damping, value, _ = carry
        residual_P, slope_PX = predict(x_X) - log_loss_P, jax.jacfwd(predict)(x_X)
        weight_P = 1.0 / (delta * jnp.maximum(jnp.abs(residual_P), delta))
        curvature_XX = (slope_PX.T * weight_P) @ slope_PX
        ridge_X = damping * (jnp.diag(curvature_XX) + 1e-12)
        gradient_X = slope_PX.T @ (weight_P * residual_P)
        move_X = jnp.linalg.solve(curvature_XX + jnp.diag(ridge_X), -gradient_X)
        moved_X = x_X + jnp.clip(move_X, -_LARGEST_MOVE, _LARGEST_MOVE)
        moved_X = jnp.clip(moved_X, lower, upper)
        new_value = value_at(moved_X)
        is_better = new_value <= value
        return (
            count + 1,
            jnp.where(is_better, moved_X, x_X),
            jnp.where(is_better, damping / 5.0, damping * 5.0),
            jnp.where(is_better, new_value, value),
            jnp.where(is_better, jnp.abs(moved_X - x_X).max(), jnp.inf),
        )

    def goes_on(carry):
        count, _, damping, _, moved = carry
        return (count < _MOST_STEPS) & (moved > 1e-11) & (damping < 1e12)

    damping, moved = jnp.asarray(1e-2, start_X.dtype), jnp.asarray(jnp.inf, start_X.dtype)
    carry = (0, start_X, damping, value_at(start_X), moved)
    return jax.lax.while_loop(goes_on, step, carry)[1]
