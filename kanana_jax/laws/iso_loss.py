"""Keeping a loss with more languages, or with a cheaper pair of model and tokens.

L = E + A K^phi N^-alpha + B K^psi D_t^-beta        (the form "curse" of `forms`)
K -> r K:  N -> r^(phi/alpha) N     D_t -> r^(psi/beta) D_t     K D_t -> r^(1 + psi/beta) K D_t
"""

from typing import NamedTuple

import numpy as np

from kanana_jax.laws import forms
from kanana_jax.laws.errors import LawError


class Factors(NamedTuple):
    """The factors of parameters, total tokens and their product for r times as many languages."""

    num_params: float
    tokens: float
    compute: float


class Cheapest(NamedTuple):
    """The model and the tokens per language of least compute."""

    num_params: float
    target_tokens: float
    compute: float  # 6 N K D_t, FLOPs


def factors(law: forms.Law, more_languages: float) -> Factors:
    """The factors at equal loss. LawError unless `more_languages` is positive."""
    _expect_curse(law)
    if not more_languages > 0:
        raise LawError(f"more_languages must be positive, got {more_languages}")
    num_params = more_languages ** (law["phi"] / law["alpha"])
    tokens = more_languages ** (1.0 + law["psi"] / law["beta"])
    return Factors(num_params, tokens, num_params * tokens)


def cheapest(law: forms.Law, loss: float, num_languages: float) -> Cheapest:
    """Where the derivative of ln(N D_t) along the curve of equal loss is zero.

    With a = A K^phi N^-alpha and b = B K^psi D_t^-beta that is alpha a = beta b; a + b is given.
    """
    _expect_curse(law)
    above = loss - law["E"]
    if not above > 0 or not num_languages >= 1:
        raise LawError(
            f"the loss must be above E = {law['E']:.4g} and the languages 1 or more; got {loss:g} "
            f"and {num_languages:g}"
        )
    alpha, beta = law["alpha"], law["beta"]
    of_model, of_data = above * beta / (alpha + beta), above * alpha / (alpha + beta)
    num_params = (law["A"] * num_languages ** law["phi"] / of_model) ** (1 / alpha)
    tokens = (law["B"] * num_languages ** law["psi"] / of_data) ** (1 / beta)
    return Cheapest(num_params, tokens, 6.0 * num_params * num_languages * tokens)


def target_tokens(law: forms.Law, loss: float, num_params: float, num_languages: float) -> float:
    """The tokens per language at which a model reaches a loss. LawError where it never does."""
    _expect_curse(law)
    of_model = law["A"] * num_languages ** law["phi"] * num_params ** -law["alpha"]
    left = loss - law["E"] - of_model
    if not left > 0:
        raise LawError(
            f"{num_params:g} parameters with {num_languages:g} languages stay above "
            f"{law['E'] + of_model:.4g}, and {loss:g} was asked for; take a larger model"
        )
    return float(np.power(law["B"] * num_languages ** law["psi"] / left, 1 / law["beta"]))


def _expect_curse(law: forms.Law) -> None:
    if law.form is not forms.CURSE:
        raise LawError(f"expected a law of the form curse, got {law.form.name}; fit forms.CURSE")
