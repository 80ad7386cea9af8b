"""The laws that can be fitted: L = E + A f(theta) + B g(theta), f of the model and g of its data.

    atlas(S)      f = N^-alpha           g = D_eff^-beta         theta: alpha, beta, lam, taus
    chinchilla    f = N^-alpha           g = D_total^-beta       theta: alpha, beta
    curse         f = K^phi N^-alpha     g = K^psi D_t^-beta     theta: alpha, beta, phi, psi

During a fit N and D are relative to a geometric mean of the data, which keeps E, A and B apart;
`Law` has them as written. Letters: P points, S sources, K languages, T thetas.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from kanana_jax.laws import saturation
from kanana_jax.laws.errors import LawError


class Points(NamedTuple):
    """Where losses were measured."""

    num_params_P: Any
    tokens: saturation.Tokens
    num_languages_P: Any

    def __len__(self) -> int:
        return len(self.num_params_P)


class Theta(NamedTuple):
    """A parameter of f and g that is not a factor."""

    name: str
    lower: float
    upper: float
    starts: tuple[float, ...]
    is_log: bool = False  # fitted by its logarithm


class Form(NamedTuple):
    """One of the laws. `features(theta, points, xp)` gives ln f and ln g of every point."""

    name: str
    thetas: tuple[Theta, ...]
    features: Callable[[Any, Points, ModuleType], tuple[Any, Any]]

    @property
    def names(self) -> tuple[str, ...]:
        return ("E", "A", "B", *(theta.name for theta in self.thetas))

    def internal(self, theta: Any) -> Float[np.ndarray, "T"]:
        """theta as it is fitted: some by their logarithm."""
        pairs = zip(self.thetas, theta, strict=True)
        return np.array([math.log(value) if one.is_log else value for one, value in pairs])

    def natural(self, internal: Any, xp: ModuleType = np) -> Any:
        """The inverse of `internal`."""
        is_log = np.array([one.is_log for one in self.thetas])
        return xp.where(is_log, xp.exp(xp.where(is_log, internal, 0.0)), internal)


@dataclass(frozen=True)
class Law:
    """A form with its numbers, by name."""

    form: Form
    values: Mapping[str, float]

    def loss(self, points: Points) -> Float[np.ndarray, "P"]:
        theta = np.array([self.values[theta.name] for theta in self.form.thetas])
        log_f_P, log_g_P = self.form.features(theta, points, np)
        e, a, b = (self.values[name] for name in ("E", "A", "B"))
        return e + a * np.exp(log_f_P) + b * np.exp(log_g_P)

    def __getitem__(self, name: str) -> float:
        return self.values[name]


_ALPHA = Theta("alpha", 0.01, 2.0, (0.2, 0.45))
_BETA = Theta("beta", 0.01, 2.0, (0.2, 0.45))


@functools.cache
def atlas(num_sources: int) -> Form:
    """The law of one target language, with the transfer weights of sources and of all others."""
    taus = [f"tau_{number}" for number in range(1, num_sources + 1)]

    def features(theta, points, xp):
        alpha, beta, lam, tau_S, tau_other = theta[0], theta[1], theta[2], theta[3:-1], theta[-1]
        worth_P = saturation.effective(points.tokens, lam, tau_S, tau_other, xp)
        return -alpha * xp.log(points.num_params_P), -beta * xp.log(worth_P)

    lam = Theta("lam", 1e-3, 1e2, (0.3, 1.5), is_log=True)
    each = [Theta(name, -2.0, 3.0, (0.1,)) for name in (*taus, "tau_other")]
    return Form("atlas", (_ALPHA, _BETA, lam, *each), features)


def _chinchilla(theta, points, xp):
    alpha, beta = theta
    return -alpha * xp.log(points.num_params_P), -beta * xp.log(points.tokens.total_P)


def _curse(theta, points, xp):
    alpha, beta, phi, psi = theta
    log_k_P = xp.log(points.num_languages_P)
    return (
        phi * log_k_P - alpha * xp.log(points.num_params_P),
        psi * log_k_P - beta * xp.log(points.tokens.target_P),
    )


CHINCHILLA = Form("chinchilla", (_ALPHA, _BETA), _chinchilla)
CURSE = Form(
    "curse",
    (_ALPHA, _BETA, Theta("phi", -2.0, 2.0, (0.1,)), Theta("psi", -2.0, 2.0, (0.0,))),
    _curse,
)


def points(
    num_params_P: Any,
    target_P: Any,
    *,
    sources_PS: Any = None,
    other_P: Any = None,
    unique_target: Any = math.inf,
    unique_sources: Any = math.inf,
    unique_other: Any = math.inf,
    num_languages: Any = 1.0,
) -> Points:
    """Points in float64. Unique tokens may be given once for all; infinite: nothing repeats.

    LawError where a count is negative, or a model or its target text is empty.
    """
    num_params_P = np.asarray(num_params_P, np.float64)
    shape = num_params_P.shape
    sources_PS = np.zeros((*shape, 0)) if sources_PS is None else np.asarray(sources_PS, np.float64)

    def each(values, like=shape):
        values = np.zeros(like) if values is None else np.asarray(values, np.float64)
        # Infinity has no product with 0; a number above any count says the same.
        return np.minimum(np.broadcast_to(values, like), 1e30)

    tokens = saturation.Tokens(
        each(target_P),
        sources_PS,
        each(other_P),
        each(unique_target),
        each(unique_sources, sources_PS.shape),
        each(unique_other),
    )
    made = Points(num_params_P, tokens, each(num_languages))
    for name, values in (("parameters", num_params_P), ("target tokens", tokens.target_P)):
        if not np.all(np.isfinite(values) & (values > 0)):
            raise LawError(f"{name} must be positive, got {values}")
    if any(np.any(values < 0) for values in tokens) or np.any(made.num_languages_P < 1):
        raise LawError("tokens must not be negative, and languages are 1 or more")
    return made
