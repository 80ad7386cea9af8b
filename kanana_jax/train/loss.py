"""The training loss: next-token cross-entropy, z-loss and the routers' balance loss.

    loss = sum(nll) / tokens + z * sum(logsumexp^2) / tokens + balance

The logits (B, S, V) are the largest array of a small model and of a large vocabulary; they are
formed for a slice of the sequence at a time and never kept for the backward pass.
Letters: B sequences, S positions, D hidden, V vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from kanana_jax import config, model, parallel


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


def token_losses(
    cfg: config.ModelConfig,
    params: Any,
    hidden_BSD: Float[Array, "B S D"],
    targets_BS: Int[Array, "B S"],
    chunk_tokens: int,
) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
    """Negative log-likelihood of each target and the log-partition of its distribution.

    Every device forms the logits of its own tokens, `chunk_tokens` at a time, against the whole
    head; the tensor axis splits the tokens too.
    """
    name = "embed" if cfg.tie_embeddings else "head"
    head_axes = model.describe(cfg)[name].logical_axes

    def on_device(hidden_BSD, targets_BS, head):
        whole = parallel.local.gather_weight(head, head_axes.index("embed"), like=targets_BS)
        return _in_chunks(cfg, {name: whole}, hidden_BSD, targets_BS, chunk_tokens)

    tokens = ("batch", "head_sequence")
    return parallel.local.on_parts(
        on_device,
        (hidden_BSD, targets_BS, params[name]),
        ((*tokens, "whole"), tokens, head_axes),
        [tokens, tokens],
    )


def _in_chunks(
    cfg: config.ModelConfig, head: Any, hidden_BSD: Array, targets_BS: Array, chunk_tokens: int
) -> tuple[Array, Array]:
    @jax.checkpoint
    def chunk(args):
        logits_BSV = model.logits(cfg, head, args[0])
        logz_BS = jax.nn.logsumexp(logits_BSV, axis=-1)
        picked_BS = jnp.take_along_axis(logits_BSV, args[1][..., None], axis=-1)[..., 0]
        return logz_BS - picked_BS, logz_BS

    num_seqs, seq_len = targets_BS.shape
    chunks = _num_chunks(seq_len, num_seqs * seq_len, chunk_tokens)
    if chunks == 1:
        return chunk((hidden_BSD, targets_BS))

    def split(x):
        return jnp.moveaxis(x.reshape(num_seqs, chunks, seq_len // chunks, *x.shape[2:]), 1, 0)

    def join(x):
        return jnp.moveaxis(x, 0, 1).reshape(num_seqs, seq_len)

    nll, logz = jax.lax.map(chunk, (split(hidden_BSD), split(targets_BS)))
    return join(nll), join(logz)


def _num_chunks(seq_len: int, tokens: int, chunk_tokens: int) -> int:
    """The fewest equal slices of the sequence that hold at most `chunk_tokens` tokens each."""
    wanted = -(-tokens // chunk_tokens)
    return next((n for n in range(wanted, seq_len) if seq_len % n == 0), seq_len)


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
    nll_BS, logz_BS = token_losses(
        exp.model, params, hidden_BSD, batch.targets, exp.train.loss_chunk_tokens
    )
    nll = jnp.sum(nll_BS * batch.loss_mask) / num_tokens
    z_loss = jnp.sum(logz_BS**2 * batch.loss_mask) / num_tokens
    balance_loss = aux.balance_loss * share
    total = nll + exp.train.z_loss_weight * z_loss + exp.train.balance_loss_weight * balance_loss
    sums = {"loss": nll, "z_loss": z_loss, "balance_loss": balance_loss, "load": aux.expert_load}
    return total, {"sums": sums, "max_logits": aux.max_logits}
