"""Direct preference optimization (arXiv:2305.18290, eq. 7): a logistic loss of the margin.

    loss(m) = -(1 - e) log sigmoid(m) - e log sigmoid(-m)        e: label_smoothing

e is the share of pairs whose labels are taken to be swapped. With the mean over an answer's tokens
instead of their sum, this is length-normalised DPO (arXiv:2411.15124), where a beta of 5 is usual,
against 0.1 here.
"""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float

from kanana_jax.objectives.preference import Preference, Reference


@dataclass(frozen=True)
class Logistic:
    """The loss of a margin and its slope. ValueError where out of range."""

    label_smoothing: float = 0.0

    def __post_init__(self):
        if not 0.0 <= self.label_smoothing < 0.5:
            raise ValueError(
                f"label_smoothing must lie in [0, 0.5), got {self.label_smoothing}; "
                "0 trusts every label"
            )

    def loss(self, margin_BK: Float[Array, "B K"]) -> Float[Array, "B K"]:
        e = self.label_smoothing
        return -(1.0 - e) * jax.nn.log_sigmoid(margin_BK) - e * jax.nn.log_sigmoid(-margin_BK)

    def pull(self, margin_BK: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """-d loss / d margin."""
        e = self.label_smoothing
        # The two sigmoids, not 1 - sigmoid, which is 0 in float32 long before its gradient is.
        return (1.0 - e) * jax.nn.sigmoid(-margin_BK) - e * jax.nn.sigmoid(margin_BK)


def dpo(
    beta: float,
    label_smoothing: float = 0.0,
    *,
    sft_weight: float = 0.0,
    reference: Reference = "computed",
) -> Preference:
    """DPO over the sums of the answers' tokens."""
    return Preference(beta, Logistic(label_smoothing), sft_weight=sft_weight, reference=reference)


def dpo_norm(
    beta: float,
    label_smoothing: float = 0.0,
    *,
    sft_weight: float = 0.0,
    reference: Reference = "computed",
) -> Preference:
    """DPO over the means of the answers' tokens."""
    return Preference(
        beta,
        Logistic(label_smoothing),
        is_mean=True,
        sft_weight=sft_weight,
        reference=reference,
    )
