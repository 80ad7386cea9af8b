"""Cross-entropy of the next token, the mean over the targets of the batch, with z-loss.

loss = sum(nll) / tokens        and  z_weight sum(logz^2) / tokens beside it
"""

from dataclasses import dataclass

import jax.numpy as jnp

from kanana_jax.objectives.objective import Seen


@dataclass(frozen=True)
class NextToken:
    """Targets count where `Batch.loss_mask` is 1: all of them, or an assistant's only."""

    z_weight: float = 0.0

    reads_scalars = False
    needs_values = False
    columns = ()
    frozen = ()
    replays_routes = False
    critic = None
    teaching = None

    def totals(self, batch):
        """The number of targets."""
        return jnp.maximum(jnp.sum(batch.loss_mask), 1.0)

    def coefficients(self, logp_BS, batch, totals, frozen):
        return batch.loss_mask / totals

    def seen(self, logp_BS, logz_BS, batch, totals, frozen):
        nll = jnp.sum(-logp_BS * batch.loss_mask) / totals
        z_loss = jnp.sum(logz_BS**2 * batch.loss_mask) / totals
        return Seen({"loss": nll, "z_loss": z_loss}, {})
