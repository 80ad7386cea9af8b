"""What tokens are worth: repeated ones less, those of other languages a part (arXiv:2510.22037).

    S(D; U) = D                                            D <= U
              U [1 + (1 - exp(-lam (D/U - 1))) / lam]      D >  U
    D_eff   = S(D_t; U_t) + sum_i tau_i S(D_i; U_i) + tau_other S(D_other; U_other)

U are unique tokens. A tau of 1 is as good as text of the target language, 0 of no use, and a
negative one does harm. The functions take numpy or jax.numpy as `xp`. Letters: P points, S sources.
"""

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

# With negative taus D_eff is kept above this share of the target's tokens: losses stay finite.
_LEAST = 1e-3


class Tokens(NamedTuple):
    """Tokens read at every point, and the number of unique ones they were drawn from."""

    target_P: Any
    sources_PS: Any  # whose transfer is asked for, one by one
    other_P: Any  # all the rest
    unique_target_P: Any
    unique_sources_PS: Any
    unique_other_P: Any

    @property
    def total_P(self) -> Any:
        return self.target_P + self.sources_PS.sum(-1) + self.other_P


def saturated(tokens: Any, unique: Any, lam: Any, xp: ModuleType = np) -> Any:
    """S: what so many tokens, drawn from `unique` ones, are worth. At most U (1 + 1 / lam)."""
    # Where nothing repeats, 0 keeps the other branch and its gradient finite.
    repeats = xp.maximum(tokens / xp.maximum(unique, 1e-30) - 1.0, 0.0)
    is_new = tokens <= unique
    repeats = xp.where(is_new, 0.0, repeats)
    return xp.where(is_new, tokens, unique * (1.0 - xp.expm1(-lam * repeats) / lam))


def effective(tokens: Tokens, lam: Any, tau_S: Any, tau_other: Any, xp: ModuleType = np) -> Any:
    """D_eff of every point."""
    own_P = saturated(tokens.target_P, tokens.unique_target_P, lam, xp)
    from_PS = saturated(tokens.sources_PS, tokens.unique_sources_PS, lam, xp)
    other_P = saturated(tokens.other_P, tokens.unique_other_P, lam, xp)
    return xp.maximum(own_P + from_PS @ tau_S + tau_other * other_P, _LEAST * own_P)
