"""Next-token losses of the head, and their gradients in the same pass.

    loss = sum_t w_t (nll_t + z logz_t^2)    logz = log sum exp logits    nll = logz - logit[target]

The logits (B, S, V) are the largest array of a small model and of a large vocabulary. They are
formed for a slice of the sequence at a time, and the gradients of the hidden states and of the head
are taken before the next slice, so that logits are neither kept nor formed again: what comes back
from the total loss is only a factor.
Letters: B sequences, S positions, D hidden, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kanana_jax import config, model, parallel


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
    """The weighted loss, and without gradient each token's negative log-likelihood and logz.

    Every device forms the logits of its own tokens, `chunk_tokens` at a time, against the whole
    head; the tensor axis splits the tokens too. There is no gradient for the weights.
    """
    name = "embed" if cfg.tie_embeddings else "head"
    head_axes = model.describe(cfg)[name].logical_axes
    settings = _Settings(z_weight, chunk_tokens, head_axes.index("embed"), cfg.tie_embeddings)
    tokens = ("batch", "head_sequence")
    loss, nll_BS, logz_BS = parallel.local.on_parts(
        functools.partial(_of_device, settings),
        (hidden_BSD, params[name], targets_BS, weights_BS),
        ((*tokens, "whole"), head_axes, tokens, tokens),
        [(), tokens, tokens],
    )
    return loss, jax.lax.stop_gradient(nll_BS), jax.lax.stop_gradient(logz_BS)


def hits(
    cfg: config.ModelConfig,
    params: Any,
    hidden_BSD: Float[Array, "B S D"],
    targets_BS: Int[Array, "B S"],
    *,
    chunk_tokens: int,
) -> Float[Array, "B S"]:
    """1 where the target has the largest logit, the first of equal ones, and 0 elsewhere.

    Logits are formed as for `losses`; there is no gradient.
    """
    name = "embed" if cfg.tie_embeddings else "head"
    head_axes = model.describe(cfg)[name].logical_axes
    settings = _Settings(0.0, chunk_tokens, head_axes.index("embed"), cfg.tie_embeddings)
    tokens = ("batch", "head_sequence")
    return parallel.local.on_parts(
        functools.partial(_hits_of_device, settings),
        (hidden_BSD, params[name], targets_BS),
        ((*tokens, "whole"), head_axes, tokens),
        tokens,
    )


def _hits_of_device(settings, hidden_BSD, head, targets_BS):
    low_DV = _whole_head(settings, targets_BS, head).astype(hidden_BSD.dtype)
    chunks = _num_chunks(targets_BS.shape, settings.chunk_tokens)

    def one(_, part):
        hidden_BSD, targets_BS = part
        best_BS = jnp.argmax(_product("BSD,DV->BSV", hidden_BSD, low_DV), axis=-1)
        return None, (best_BS == targets_BS).astype(jnp.float32)

    _, is_hit = jax.lax.scan(one, None, (_split(hidden_BSD, chunks), _split(targets_BS, chunks)))
    return _join(is_hit, seq_len=targets_BS.shape[1])


class _Settings(NamedTuple):
    z_weight: float
    chunk_tokens: int
    embed_dim: int  # of the head, which fsdp splits
    is_tied: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_device(settings, hidden_BSD, head, targets_BS, weights_BS):
    head_DV = _whole_head(settings, targets_BS, head)
    return _scan(settings, hidden_BSD, head_DV, targets_BS, weights_BS, with_grads=False)[0]


def _forward(settings, hidden_BSD, head, targets_BS, weights_BS):
    gather = functools.partial(_whole_head, settings, targets_BS)
    head_DV, scatter = jax.vjp(gather, head)
    found, grad_BSD, grad_DV = _scan(
        settings, hidden_BSD, head_DV, targets_BS, weights_BS, with_grads=True
    )
    # At once, so that the layers' backward pass keeps this device's part only.
    (grad_head,) = scatter(grad_DV)
    return found, (grad_BSD, grad_head)


def _backward(settings, grads, cotangents):
    factor = cotangents[0]  # the others are of what has no gradient
    grad_BSD, grad_head = grads
    return factor.astype(grad_BSD.dtype) * grad_BSD, factor * grad_head, None, None


_of_device.defvjp(_forward, _backward)


def _whole_head(settings, targets_BS, head):
    head = parallel.local.gather_weight(head, settings.embed_dim, like=targets_BS)
    return head.T if settings.is_tied else head


def _scan(settings, hidden_BSD, head_DV, targets_BS, weights_BS, *, with_grads: bool):
    """((loss of all devices, nll, logz), its gradients for hidden and head or twice None)."""
    dtype = hidden_BSD.dtype
    low_DV = head_DV.astype(dtype)
    chunks = _num_chunks(targets_BS.shape, settings.chunk_tokens)

    def one(grad_DV, part):
        hidden_BSD, targets_BS, weights_BS = part
        logits_BSV = _product("BSD,DV->BSV", hidden_BSD, low_DV)
        logz_BS, of_target_BS = jax.lax.platform_dependent(
            logits_BSV, targets_BS, cuda=_in_one_pass, default=_in_two_passes
        )
        nll_BS = logz_BS - of_target_BS
        loss = jnp.sum(weights_BS * (nll_BS + settings.z_weight * logz_BS**2))
        each = nll_BS, logz_BS
        if not with_grads:
            return None, (loss, each, None)
        softmax_BSV = jnp.exp(logits_BSV - logz_BS[..., None])
        slope_BS = 1.0 + 2.0 * settings.z_weight * logz_BS
        grad_BSV = slope_BS[..., None] * softmax_BSV - _is_target(logits_BSV, targets_BS)
        # In float32 it would make float32 operands of both products.
        grad_BSV = (weights_BS[..., None] * grad_BSV).astype(dtype)
        grad_DV += _product("BSD,BSV->DV", hidden_BSD, grad_BSV)
        grad_BSD = _product("BSV,DV->BSD", grad_BSV, low_DV).astype(dtype)
        return grad_DV, (loss, each, grad_BSD)

    start = jnp.zeros_like(head_DV) if with_grads else None
    parts = tuple(_split(x, chunks) for x in (hidden_BSD, targets_BS, weights_BS))
    grad_DV, (loss, each, grad_BSD) = jax.lax.scan(one, start, parts)
    join = functools.partial(_join, seq_len=targets_BS.shape[1])
    nll_BS, logz_BS = (join(x) for x in each)
    found = parallel.local.add_all_up(loss.sum()), nll_BS, logz_BS
    return found, join(grad_BSD) if with_grads else None, grad_DV


def _num_chunks(shape: tuple[int, ...], chunk_tokens: int) -> int:
    """The fewest slices of the sequence that hold at most `chunk_tokens` tokens each."""
    batch, seq_len = shape
    return -(-seq_len // max(chunk_tokens // batch, 1))


def _split(x, chunks):
    """Equal slices of the sequence, the last one filled up with zeros, which have no weight."""
    padding = -x.shape[1] % chunks
    if padding:
        x = jnp.pad(x, ((0, 0), (0, padding), *[(0, 0)] * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(x.shape[0], chunks, -1, *x.shape[2:]), 1, 0)


def _join(x, seq_len):
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])[:, :seq_len]


def _is_target(logits_BSV, targets_BS):
    return targets_BS[..., None] == jnp.arange(logits_BSV.shape[-1])


def _in_two_passes(logits_BSV, targets_BS):
    """(logz, logit of the target), the highest logit first."""
    of_target_BSV = jnp.where(_is_target(logits_BSV, targets_BS), logits_BSV, 0.0)
    return jax.nn.logsumexp(logits_BSV, axis=-1), jnp.sum(of_target_BSV, axis=-1)


def _in_one_pass(logits_BSV, targets_BS):
    """The same, with sums that move to a higher reference as they meet it.

    A GPU takes longer to read a logit than for the few operations on it here.
    """

    def join(one, other):
        (top, total), (other_top, other_total) = one, other
        shrink = jnp.exp(-jnp.abs(top - other_top))
        joined = jnp.where(
            top >= other_top, total + shrink * other_total, other_total + shrink * total
        )
        return jnp.maximum(top, other_top), joined

    start = jnp.finfo(logits_BSV.dtype).min, jnp.zeros((), logits_BSV.dtype)
    terms = logits_BSV, jnp.ones_like(logits_BSV)
    highest_BS, sum_BS = jax.lax.reduce(terms, start, join, dimensions=(2,))
    of_target_BS1 = jnp.take_along_axis(logits_BSV, targets_BS[..., None], axis=-1)
    return highest_BS + jnp.log(sum_BS), of_target_BS1[..., 0]


@jax.named_scope("head")
def _product(subscripts: str, left: Array, right: Array) -> Array:
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)
