"""The training loss: next-token cross-entropy, z-loss and the routers' balance loss.

    loss = sum(nll) / tokens + z * sum(logsumexp^2) / tokens + balance

Letters: B sequences, S positions.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from kanana_jax import config, model, parallel
from kanana_jax.train import head


class DeviceBatch(NamedTuple):
    """A `data.Batch` on the devices; its fields are explained there."""

    tokens: Int[Array, "B S"]
    targets: Int[Array, "B S"]
    positions: Int[Array, "B S"]
    segment_ids: Int[Array, "B S"]
    loss_mask: Float[Array, "B S"]
    target_bytes: Float[Array, "B S"]


def abstract_batch(batch_size: int, seq_len: int, mesh: Mesh) -> DeviceBatch:
    """Shapes, dtypes and shardings of a batch on `mesh`."""
    sharding = parallel.batch_sharding(mesh)

    def column(dtype) -> Any:
        return jax.ShapeDtypeStruct((batch_size, seq_len), dtype, sharding=sharding)

    return DeviceBatch(*[column(jnp.int32)] * 4, *[column(jnp.float32)] * 2)


def training_loss(
    params: Any,
    router_bias: Any,
    batch: DeviceBatch,
    share: Float[Array, ""],
    num_tokens: Float[Array, ""],
    exp: config.Experiment,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """The part of the batch's loss that comes from one micro-batch.

    `num_tokens` counts the targets of the whole batch and `share` is the micro-batch's share of its
    sequences, so that the parts (losses, gradients, sums) add up to those of the whole batch.
    """
    hidden_BSD, aux = model.hidden_states(
        exp.model, params, router_bias, batch.tokens, batch.positions, batch.segment_ids
    )
    of_head, nll_BS, logz_BS = head.losses(
        exp.model,
        params,
        hidden_BSD,
        batch.targets,
        batch.loss_mask / num_tokens,
        z_weight=exp.train.z_loss_weight,
        chunk_tokens=exp.train.loss_chunk_tokens,
    )
    nll = jnp.sum(nll_BS * batch.loss_mask) / num_tokens
    z_loss = jnp.sum(logz_BS**2 * batch.loss_mask) / num_tokens
    balance_loss = aux.balance_loss * share
    total = of_head + exp.train.balance_loss_weight * balance_loss
    sums = {"loss": nll, "z_loss": z_loss, "balance_loss": balance_loss, "load": aux.expert_load}
    return total, {"sums": sums, "max_logits": aux.max_logits}
