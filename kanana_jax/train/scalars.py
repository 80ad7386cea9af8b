"""One number per position, from a reward model or a critic, and the losses of `head` made of it.

    r_t = hidden_t . scalar_head        loss = -sum_t w_t r_t        w_t = -d loss / d r_t

Letters: B sequences, S positions, D hidden.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kanana_jax import config, model
from kanana_jax.batch import Batch
from kanana_jax.objectives.objective import Critic


def losses(
    cfg: config.ModelConfig,
    params: Any,
    hidden_BSD: Float[Array, "B S D"],
    targets_BS: Int[Array, "B S"],
    weights_BS: Float[Array, "B S"],
    *,
    z_weight: float,
    chunk_tokens: int,
) -> tuple[Float[Array, ""], Float[Array, "B S"], Float[Array, "B S"]]:
    """What `head.losses` gives, with -r in the place of each token's negative log-likelihood.

    There is no logz, so it is 0. Nothing is large here, so nothing is formed in chunks.
    """
    del targets_BS, z_weight, chunk_tokens
    scalar_BS = model.scalars(cfg, params, hidden_BSD)
    loss = -jnp.sum(jax.lax.stop_gradient(weights_BS) * scalar_BS)
    return loss, -jax.lax.stop_gradient(scalar_BS), jnp.zeros_like(scalar_BS)


def critic_loss(
    critic: Critic,
    cfg: config.ModelConfig,
    params: Any,
    hidden_BSD: Float[Array, "B S D"],
    batch: Batch,
    totals: Any,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """What has the gradient of a critic's loss, and what the critic reports."""
    scalar_BS = model.scalars(cfg, params, hidden_BSD)
    value_BS = jax.lax.stop_gradient(scalar_BS)
    w_BS = critic.coefficients(value_BS, batch, totals)
    return -jnp.sum(w_BS * scalar_BS), critic.sums(value_BS, batch, totals)
