"""Bradley-Terry loss of a reward model (arXiv:2203.02155, eq. 1), with centred rewards.

    loss = mean_k  -log sigmoid(r(chosen_k) - r(rejected_k)) + c (r(chosen_k) + r(rejected_k))^2

r(answer) is the scalar at the position of the answer's last target. That target is the EOS that
closes it, so the position holds the answer's last token: the head has read the prompt and the
answer, but no EOS. c is `centering` (arXiv:2312.09244): a difference leaves the level of the
rewards open, and the second term puts it at 0. Labels are not smoothed.

`pairs` says how rows hold pairs. Letters: B sequences, S positions, K pairs that fit in a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kanana_jax.batch import Batch
from kanana_jax.objectives import pairs as pairs_lib
from kanana_jax.objectives.objective import Seen


@dataclass(frozen=True)
class Reward:
    """ValueError where `centering` is out of range; 0.01 is usual."""

    centering: float = 0.01

    z_weight = 0.0
    reads_scalars = True
    needs_values = True
    columns = ()
    frozen = ()
    replays_routes = False
    critic = None
    teaching = None

    def __post_init__(self):
        if not 0.0 <= self.centering < float("inf"):
            raise ValueError(
                f"centering must be a number from 0, got {self.centering}; 0.01 is usual"
            )

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
        """[+-sigmoid(r_rejected - r_chosen) - 2 c (r_chosen + r_rejected)] / pairs at the ends."""
        assert value_BS is not None  # needs_values
        at_end_BS = pairs_lib.ends(batch)
        rewards = pairs_lib.sums(value_BS * at_end_BS, batch)
        pull_BK = jax.nn.sigmoid(-rewards.margin_BK)
        level_BK = 2.0 * self.centering * (rewards.chosen_BK + rewards.rejected_BK)
        chosen_BK, rejected_BK = (
            jnp.where(rewards.is_pair_BK, (signed_BK - level_BK) / totals, 0.0)
            for signed_BK in (pull_BK, -pull_BK)
        )
        return pairs_lib.at_positions(chosen_BK, rejected_BK, batch) * at_end_BS

    def seen(
        self,
        value_BS: Float[Array, "B S"],
        /,
        logz_BS: Float[Array, "B S"],
        batch: Batch,
        totals: Float[Array, ""],
        frozen: Mapping[str, Float[Array, "B S"]],
    ) -> Seen:
        """Means over the pairs: the loss, the rewards, the margin between them.

        "accuracy" is the share of pairs with a margin over 0; 0 counts one half.
        """
        del logz_BS
        rewards = pairs_lib.sums(value_BS * pairs_lib.ends(batch), batch)
        margin_BK = rewards.margin_BK
        level_BK = rewards.chosen_BK + rewards.rejected_BK
        of_pairs = {
            "loss": -jax.nn.log_sigmoid(margin_BK) + self.centering * level_BK**2,
            "accuracy": pairs_lib.in_order(margin_BK),
            "margin": margin_BK,
            "chosen_reward": rewards.chosen_BK,
            "rejected_reward": rewards.rejected_BK,
        }
        return Seen(pairs_lib.means(of_pairs, rewards, totals), {})
