"""Direct preference optimization (arXiv:2305.18290, eq. 7), the mean over the pairs of the batch.

    m_k  = beta [(logp(chosen_k) - ref(chosen_k)) - (logp(rejected_k) - ref(rejected_k))]
    loss = mean_k  -(1 - e) log sigmoid(m_k) - e log sigmoid(-m_k)        e: label_smoothing

logp(answer) sums the log-probabilities of an answer's targets, ref those under the weights before
training. With e the labels are taken to be swapped in that share of the pairs.

Pair k = 1, 2, ... of a row is segment 2k - 1, with the chosen answer, and segment 2k, with the
rejected one; `Batch.loss_mask` is 1 on the answers. A row holds whole pairs, so rows can be cut
into micro-batches and spread over devices.

Letters: B sequences, S positions, K pairs that fit in a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kanana_jax.batch import Batch
from kanana_jax.objectives.objective import Seen


class _Pairs(NamedTuple):
    is_pair_BK: Bool[Array, "B K"]
    chosen_BK: Float[Array, "B K"]  # rewards: beta (logp - ref), 0 where there is no pair
    rejected_BK: Float[Array, "B K"]

    @property
    def margin_BK(self) -> Float[Array, "B K"]:
        return self.chosen_BK - self.rejected_BK


@dataclass(frozen=True)
class Preference:
    """A larger `beta` keeps the weights closer to the reference. ValueError where out of range."""

    beta: float
    label_smoothing: float = 0.0

    z_weight = 0.0
    needs_logp = True
    frozen = ("reference",)

    def __post_init__(self):
        if not 0.0 < self.beta < float("inf"):
            raise ValueError(f"beta must be a positive number, got {self.beta}; 0.1 is usual")
        if not 0.0 <= self.label_smoothing < 0.5:
            raise ValueError(
                f"label_smoothing must lie in [0, 0.5), got {self.label_smoothing}; "
                "0 trusts every label"
            )

    def totals(self, batch: Batch) -> Float[Array, ""]:
        """The number of pairs."""
        return jnp.maximum(jnp.sum(_num_pairs(batch)).astype(jnp.float32), 1.0)

    def coefficients(
        self,
        logp_BS: Float[Array, "B S"] | None,
        batch: Batch,
        totals: Float[Array, ""],
        frozen: Mapping[str, Float[Array, "B S"]],
    ) -> Float[Array, "B S"]:
        """-d loss / d logp: beta [(1 - e) sigmoid(-m) - e sigmoid(m)] / pairs, or minus that."""
        assert logp_BS is not None  # needs_logp
        pairs = self._pairs(logp_BS, batch, frozen)
        e, margin_BK = self.label_smoothing, pairs.margin_BK
        # The two sigmoids, not 1 - sigmoid, which is 0 in float32 long before its gradient is.
        pull_BK = (1.0 - e) * jax.nn.sigmoid(-margin_BK) - e * jax.nn.sigmoid(margin_BK)
        pull_BK = jnp.where(pairs.is_pair_BK, self.beta / totals * pull_BK, 0.0)
        pair_BS, is_chosen_BS = _place(batch)
        num_pairs = pull_BK.shape[1]
        if not num_pairs:
            return jnp.zeros_like(logp_BS)
        pull_BS = jnp.take_along_axis(pull_BK, jnp.clip(pair_BS, 0, num_pairs - 1), axis=1)
        signed_BS = jnp.where(is_chosen_BS, pull_BS, -pull_BS)
        return jnp.where(pair_BS >= 0, signed_BS * batch.loss_mask, 0.0)

    def seen(
        self,
        logp_BS: Float[Array, "B S"],
        logz_BS: Float[Array, "B S"],
        batch: Batch,
        totals: Float[Array, ""],
        frozen: Mapping[str, Float[Array, "B S"]],
    ) -> Seen:
        """Means over the pairs: the loss, the margin m and its parts, the rewards of the answers.

        "accuracy" is the share of pairs with m > 0; m = 0 counts one half.
        """
        del logz_BS
        pairs = self._pairs(logp_BS, batch, frozen)
        e, margin_BK = self.label_smoothing, pairs.margin_BK
        loss_BK = -(1.0 - e) * jax.nn.log_sigmoid(margin_BK) - e * jax.nn.log_sigmoid(-margin_BK)
        of_pairs = {
            "loss": loss_BK,
            "accuracy": 0.5 * (1.0 + jnp.sign(margin_BK)),
            "margin": margin_BK,
            "chosen_reward": pairs.chosen_BK,
            "rejected_reward": pairs.rejected_BK,
        }
        sums = {
            name: jnp.sum(jnp.where(pairs.is_pair_BK, values_BK, 0.0)) / totals
            for name, values_BK in of_pairs.items()
        }
        return Seen(sums, {})

    def _pairs(
        self, logp_BS: Float[Array, "B S"], batch: Batch, frozen: Mapping[str, Array]
    ) -> _Pairs:
        # Token by token first: the two sums are long and nearly equal.
        reward_BS = self.beta * (logp_BS - frozen["reference"]) * batch.loss_mask
        # Each segment has a position, so a row of S has at most S of them, and padding.
        reward_BG = jax.vmap(
            lambda reward_S, segment_S: jax.ops.segment_sum(
                reward_S, segment_S, num_segments=reward_S.size + 1
            )
        )(reward_BS, jnp.asarray(batch.segment_ids))
        num_pairs = reward_BS.shape[1] // 2
        is_pair_BK = jnp.arange(num_pairs) < _num_pairs(batch)[:, None]
        chosen_BK, rejected_BK = (
            jnp.where(is_pair_BK, reward_BG[:, first : 2 * num_pairs + 1 : 2], 0.0)
            for first in (1, 2)
        )
        return _Pairs(is_pair_BK, chosen_BK, rejected_BK)


def _num_pairs(batch: Batch) -> Int[Array, " B"]:
    return jnp.max(batch.segment_ids, axis=1) // 2


def _place(batch: Batch) -> tuple[Int[Array, "B S"], Bool[Array, "B S"]]:
    """Each position's pair from 0, or -1 for padding; and whether it is of the chosen answer."""
    segment_BS = jnp.asarray(batch.segment_ids)
    return (segment_BS + 1) // 2 - 1, segment_BS % 2 == 1
