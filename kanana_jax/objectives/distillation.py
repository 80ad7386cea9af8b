"""A student's loss against a teacher, added to the next-token loss: means over the targets.

    loss = sum_t [ce_weight nll_t + weight divergence(p_t, q_t)] / targets

The divergence is one of `soft_targets`. It compares whole distributions, so the head computes it
while it forms the student's logits, in the same pass as the cross-entropy.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from kanana_jax.batch import Batch
from kanana_jax.objectives.next_token import NextToken
from kanana_jax.objectives.objective import Seen
from kanana_jax.objectives.soft_targets import Divergence


@dataclass(frozen=True)
class Teaching:
    """The term of the teacher. ValueError where `weight` is out of range.

    A teacher that `is_live` takes a forward pass of frozen weights in each step; otherwise its
    numbers come with the batch, as the columns of the divergence.
    """

    divergence: Divergence
    weight: float = 1.0
    is_live: bool = True

    def __post_init__(self):
        if not 0.0 < self.weight < float("inf"):
            raise ValueError(f"weight must be a positive number, got {self.weight}; 1 is usual")
        if not self.is_live and not self.divergence.columns:
            raise ValueError(
                f"{self.divergence} reads the teacher's whole distribution, which no column "
                "holds; take a live teacher, TopK or Sampled"
            )

    def coefficients(self, batch: Batch, totals: Float[Array, ""]) -> Float[Array, "B S"]:
        return self.weight * batch.loss_mask / totals

    def sums(
        self, value_BS: Float[Array, "B S"], batch: Batch, totals: Float[Array, ""]
    ) -> dict[str, Array]:
        divergence = jnp.sum(value_BS * batch.loss_mask) / totals
        return {"loss": self.weight * divergence, "divergence": divergence}


@dataclass(frozen=True)
class Distillation:
    """Targets count as for `NextToken`. ValueError where `ce_weight` is out of range."""

    teaching: Teaching | None  # None: nobody teaches
    ce_weight: float = 0.0
    z_weight: float = 0.0  # of the squared logz, as part of the cross-entropy

    reads_scalars = False
    needs_values = False
    columns = ()
    frozen = ()
    replays_routes = False
    critic = None

    def __post_init__(self):
        if not 0.0 <= self.ce_weight < float("inf"):
            raise ValueError(
                f"ce_weight must be a number from 0, got {self.ce_weight}; 0 leaves the term out"
            )

    def totals(self, batch):
        """The number of targets."""
        return NextToken().totals(batch)

    def coefficients(self, logp_BS, batch, totals, frozen):
        return self.ce_weight * batch.loss_mask / totals

    def seen(self, logp_BS, logz_BS, batch, totals, frozen):
        of_text = NextToken().seen(logp_BS, logz_BS, batch, totals, frozen).sums
        nll = of_text["loss"]
        return Seen({**of_text, "loss": self.ce_weight * nll, "nll": nll}, {})
