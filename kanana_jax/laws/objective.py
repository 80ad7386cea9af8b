"""What a fit minimises: the sum of Huber's loss of the residuals of ln L.

    sum_P huber((ln L(theta) - ln loss) / delta)        huber(z) = z^2 / 2, or |z| - 1/2 beyond 1

It is summed and not averaged: an optimiser that reads the mean stops early (arXiv:2404.10102).
delta is 1e-3, Chinchilla's. A law is the vector (ln E, ln A, ln B, theta), where A and B multiply
f and g divided by their geometric means over the data. All of it is in float64.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kanana_jax.laws.forms import Form, Law, Points

DELTA = 1e-3


def centered(form: Form, internal: Any, points: Points) -> Float[Array, "P 2"]:
    """ln f and ln g minus their means."""
    log_fg = jnp.stack(form.features(form.natural(internal, jnp), points, jnp), axis=-1)
    return log_fg - log_fg.mean(0)


def log_loss(form: Form, vector: Any, points: Points) -> Float[Array, "P"]:
    """ln L of the law that `vector` describes."""
    return jax.nn.logsumexp(log_parts(vector[:3], centered(form, vector[3:], points)), axis=-1)


def log_parts(log_eab: Any, log_fg_P2: Any) -> Float[Array, "P 3"]:
    """ln E, ln A f and ln B g."""
    return log_eab + jnp.pad(log_fg_P2, ((0, 0), (1, 0)))


def huber(residual_P: Any, delta: Any = DELTA) -> Float[Array, ""]:
    z_P = jnp.abs(residual_P / delta)
    return jnp.sum(jnp.where(z_P <= 1.0, 0.5 * z_P**2, z_P - 0.5))


def as_law(form: Form, vector: Any, points: Points) -> Law:
    """The law, with A and B as the form is written."""
    theta = form.natural(np.asarray(vector[3:], np.float64))
    log_fg = np.stack(form.features(theta, points, np))
    scale = np.exp(np.concatenate([[0.0], -log_fg.mean(1)]))
    numbers = [*(np.exp(np.asarray(vector[:3])) * scale), *theta]
    return Law(form, dict(zip(form.names, map(float, numbers), strict=True)))


def as_vector(law: Law, points: Points) -> Float[np.ndarray, "X"]:
    """The inverse of `as_law`."""
    theta = np.array([law[one.name] for one in law.form.thetas])
    log_fg = np.stack(law.form.features(theta, points, np)).mean(1)
    log_eab = np.log([law["E"], law["A"], law["B"]]) + np.concatenate([[0.0], log_fg])
    return np.concatenate([log_eab, law.form.internal(theta)])
