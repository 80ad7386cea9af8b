"""Identity preference optimization (arXiv:2310.12036, eq. 17): a squared loss of the margin.

    loss = (d - 1 / (2 beta))^2 = ((m - 1/2) / beta)^2        d = m / beta

d, the margin before beta multiplies it, is a difference of means over the answers' tokens: sums
grow with the length, but the target 1 / (2 beta) does not. A pair past its target is pulled back,
so labels that never differ do not drive the margin to infinity.
"""

from dataclasses import dataclass

from jaxtyping import Array, Float

from kanana_jax.objectives.preference import Preference, Reference


@dataclass(frozen=True)
class Squared:
    """The loss of a margin and its slope."""

    beta: float

    def loss(self, margin_BK: Float[Array, "B K"]) -> Float[Array, "B K"]:
        return ((margin_BK - 0.5) / self.beta) ** 2

    def pull(self, margin_BK: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """-d loss / d margin."""
        return 2.0 * (0.5 - margin_BK) / self.beta**2


def ipo(beta: float, *, sft_weight: float = 0.0, reference: Reference = "computed") -> Preference:
    """IPO over the means of the answers' tokens."""
    return Preference(beta, Squared(beta), is_mean=True, sft_weight=sft_weight, reference=reference)
