"""Does the multilingual fit find the law that made the losses? A design, its noise, its answer.

Sizes, tokens and mixtures are those that fit a laptop: 64 points. The spread over draws of noise is
what a real study of that design could know about each parameter.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kanana_jax.laws import fitting, forms

# The law, the available text, and shares of the target, two sources and all others.
TRUTH = forms.Law(
    forms.atlas(2),
    {
        "E": 1.2,
        "A": 110.0,
        "B": 120.0,
        "alpha": 0.34,
        "beta": 0.30,
        "lam": 0.7,
        "tau_1": 0.35,
        "tau_2": -0.05,
        "tau_other": 0.10,
    },
)
UNIQUE = {"unique_target": 3e6, "unique_sources": 5e6, "unique_other": 20e6}
MIXES = ((1.0, 0.0, 0.0, 0.0), (0.5, 0.4, 0.0, 0.1), (0.5, 0.0, 0.4, 0.1), (0.2, 0.2, 0.2, 0.4))
SIZES = tuple(np.geomspace(0.3e6, 10e6, 4))
TOKENS = tuple(np.geomspace(1e6, 40e6, 4))


class Recovered(NamedTuple):
    """Fits to losses with one size of noise: (draws,) of every parameter."""

    sigma: float
    found: Mapping[str, Float[np.ndarray, "D"]]
    num_unconverged: int


def points(
    sizes: Sequence[float] = SIZES,
    tokens: Sequence[float] = TOKENS,
    mixes: Sequence[tuple[float, float, float, float]] = MIXES,
) -> forms.Points:
    """Every size with every budget in every mixture."""
    grid = list(itertools.product(sizes, tokens, mixes))
    token_P = np.array([one[1] for one in grid])
    share_P4 = np.array([one[2] for one in grid])
    return forms.points(
        np.array([one[0] for one in grid]),
        token_P * share_P4[:, 0],
        sources_PS=token_P[:, None] * share_P4[:, 1:3],
        other_P=token_P * share_P4[:, 3],
        **UNIQUE,
    )


def recover(sigmas: tuple[float, ...], num_draws: int, seed: int = 0) -> Iterator[Recovered]:
    """One size of noise after the other; `sigma` is the standard deviation of ln loss."""
    at = points()
    clean_P = TRUTH.loss(at)
    for sigma in sigmas:
        fits = []
        for draw in range(num_draws):
            luck_P = np.random.default_rng((seed, draw)).normal(0.0, sigma, len(at))
            fits.append(fitting.fit(TRUTH.form, at, clean_P * np.exp(luck_P)))
        found = {name: np.array([one.law[name] for one in fits]) for name in TRUTH.form.names}
        yield Recovered(sigma, found, sum(not one.is_converged for one in fits))
