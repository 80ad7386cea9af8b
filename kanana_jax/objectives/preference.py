"""Losses of pairs of answers against a reference, the mean over the pairs of the batch.

    r(answer) = beta  sum_t or mean_t [logp_t - ref_t]        m_k = r(chosen_k) - r(rejected_k)
    loss      = mean_k  margin_loss(m_k) + sft_weight  mean_t -logp_t(chosen_k)

t runs over an answer's targets, ref are their log-probabilities under the weights before training.
`dpo` and `ipo` have the losses of the margin. The second term keeps the chosen answers likely,
which a margin alone does not (arXiv:2404.19733, eq. 1). `pairs` says how rows hold pairs.

Letters: B sequences, S positions, K pairs that fit in a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from kanana_jax.batch import Batch
from kanana_jax.objectives import pairs as pairs_lib
from kanana_jax.objectives.objective import Seen

Reference = Literal["computed", "cached"]


class MarginLoss(Protocol):
    """A hashable loss of margins, and minus its derivative."""

    def loss(self, margin_BK: Float[Array, "B K"], /) -> Float[Array, "B K"]: ...
    def pull(self, margin_BK: Float[Array, "B K"], /) -> Float[Array, "B K"]: ...


@dataclass(frozen=True)
class Preference:
    """A larger `beta` keeps the weights closer to the reference. ValueError where out of range.

    `is_mean` takes the mean over an answer's tokens instead of their sum. A `reference` that is
    "computed" takes a forward pass of frozen weights in each step; one that is "cached" comes with
    the batch, as its column "reference".
    """

    beta: float
    margin_loss: MarginLoss
    is_mean: bool = False
    sft_weight: float = 0.0
    reference: Reference = "computed"

    z_weight = 0.0
    reads_scalars = False
    needs_values = True
    replays_routes = False
    critic = None
    teaching = None

    def __post_init__(self):
        if not 0.0 < self.beta < float("inf"):
            raise ValueError(
                f"beta must be a positive number, got {self.beta}; "
                "0.1 is usual for sums of tokens, 5 for means"
            )
        if not 0.0 <= self.sft_weight < float("inf"):
            raise ValueError(
                f"sft_weight must be a number from 0, got {self.sft_weight}; 0 leaves the term out"
            )

    @property
    def frozen(self) -> tuple[str, ...]:
        return ("reference",) if self.reference == "computed" else ()

    @property
    def columns(self) -> tuple[str, ...]:
        return ("reference",) if self.reference == "cached" else ()

    def totals(self, batch: Batch) -> Float[Array, ""]:
        """The number of pairs."""
        return pairs_lib.count(batch)

    def coefficients(
        self,
        value_BS: Float[Array, "B S"] | None,
        /,
        batch: Batch,
        totals: Float[Array, ""],
        frozen: Mapping[str, Float[Array, "B S"]],
    ) -> Float[Array, "B S"]:
        """beta pull(m) / pairs on the chosen answer, minus that on the rejected one.

        For means, times 1 / length. The chosen answer gets sft_weight / length / pairs more.
        """
        assert value_BS is not None  # needs_values
        pairs = self._rewards(value_BS, batch, frozen)
        pull_BK = self.beta / totals * self.margin_loss.pull(pairs.margin_BK)
        pull_BK = jnp.where(pairs.is_pair_BK, pull_BK, 0.0)
        w_BS = pairs_lib.at_positions(pull_BK, -pull_BK, batch) * self._weight_of_tokens(batch)
        if self.sft_weight:
            sft_BK = jnp.where(pairs.is_pair_BK, self.sft_weight / totals, 0.0)
            at_BS = pairs_lib.at_positions(sft_BK, jnp.zeros_like(sft_BK), batch)
            w_BS += at_BS * pairs_lib.shares(batch)
        return w_BS

    def seen(
        self,
        value_BS: Float[Array, "B S"],
        /,
        logz_BS: Float[Array, "B S"],
        batch: Batch,
        totals: Float[Array, ""],
        frozen: Mapping[str, Float[Array, "B S"]],
    ) -> Seen:
        """Means over the pairs: the loss, the margin m and its parts, the rewards of the answers.

        "accuracy" is the share of pairs with m > 0; m = 0 counts one half. "chosen_nll" is the mean
        over an answer's tokens, and lengths count them, EOS too.
        """
        del logz_BS
        pairs = self._rewards(value_BS, batch, frozen)
        lengths = pairs_lib.sums(jnp.asarray(batch.loss_mask), batch)
        nll = pairs_lib.sums(-value_BS * pairs_lib.shares(batch), batch)
        margin_BK = pairs.margin_BK
        of_pairs = {
            "loss": self.margin_loss.loss(margin_BK) + self.sft_weight * nll.chosen_BK,
            "accuracy": pairs_lib.in_order(margin_BK),
            "margin": margin_BK,
            "chosen_reward": pairs.chosen_BK,
            "rejected_reward": pairs.rejected_BK,
            "chosen_nll": nll.chosen_BK,
            "chosen_length": lengths.chosen_BK,
            "rejected_length": lengths.rejected_BK,
        }
        return Seen(pairs_lib.means(of_pairs, pairs, totals), {})

    def _rewards(
        self, logp_BS: Float[Array, "B S"], batch: Batch, frozen: Mapping[str, Array]
    ) -> pairs_lib.Pairs:
        is_cached = self.reference == "cached"
        ref_BS = batch.extra["reference"] if is_cached else frozen["reference"]
        # Token by token first: the two sums are long and nearly equal.
        reward_BS = self.beta * (logp_BS - ref_BS) * self._weight_of_tokens(batch)
        return pairs_lib.sums(reward_BS, batch)

    def _weight_of_tokens(self, batch: Batch) -> Float[Array, "B S"]:
        return pairs_lib.shares(batch) if self.is_mean else jnp.asarray(batch.loss_mask)
