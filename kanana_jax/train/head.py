"""Losses of the head's logits, and their gradients in the same pass.

    loss = sum_t w_t (nll_t + z logz_t^2)    logz = log sum exp logits    nll = logz - logit[target]

The logits (B, S, V) are the largest array of a small model and of a large vocabulary. They are
formed for a slice of the sequence at a time, and the gradients of the hidden states and of the head
are taken before the next slice, so that logits are neither kept nor formed again: the total loss
sends back only a factor. `losses` is the loss above; `over_chunks` takes any that can be computed
slice by slice.
Letters: B sequences, S positions, D hidden, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kanana_jax import config, model, parallel

_TOKENS = ("batch", "head_sequence")


class Other(NamedTuple):
    """A second model, a teacher, whose logits are formed alongside without gradient."""

    cfg: config.ModelConfig
    params: Any
    hidden_BSD: Float[Array, "B S D"]


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

    There is no gradient for the weights.
    """
    loss, (nll_BS, logz_BS) = over_chunks(
        functools.partial(cross_entropy, z_weight=z_weight),
        (cfg, params, hidden_BSD),
        (targets_BS, weights_BS),
        num_each=2,
        chunk_tokens=chunk_tokens,
    )
    return loss, nll_BS, logz_BS


def over_chunks(
    fn: Callable,
    of: tuple[config.ModelConfig, Any, Float[Array, "B S D"]],
    parts: tuple[Array, ...],
    *,
    num_each: int,
    chunk_tokens: int,
    other: Other | None = None,
) -> tuple[Float[Array, ""], list[Float[Array, "B S"]]]:
    """The sum of a loss over every token's logits and, without gradient, numbers of each token.

    fn(logits_BSV, other_BSV, parts, with_grads) of a slice of the sequence gives its loss,
    `num_each` arrays (B, S), and d loss / d logits, or None unless `with_grads`. `of` is the model,
    its params and hidden states, to which the gradient flows; `parts` are arrays (B, S, ...) that
    `fn` reads.

    Every device forms the logits of its own tokens, `chunk_tokens` at a time, against the whole
    head; the tensor axis splits the tokens too.
    """
    cfg, params, hidden_BSD = of
    head, head_axes, layout = _head_of(cfg, params)
    settings = _Settings(fn, chunk_tokens, layout)
    arrays, axes = (hidden_BSD, head), ((*_TOKENS, "whole"), head_axes)
    if other is not None:
        other_head, other_axes, layout = _head_of(other.cfg, other.params)
        settings = settings._replace(other=layout)
        arrays, axes = (*arrays, other_head), (*axes, other_axes)
        parts = (other.hidden_BSD, *parts)
    loss, *each = parallel.local.on_parts(
        lambda hidden_BSD, head, *given: _of_device(settings, hidden_BSD, head, given),
        (*arrays, *parts),
        (*axes, *map(_axes_of_part, parts)),
        [(), *[_TOKENS] * num_each],
    )
    return loss, list(map(jax.lax.stop_gradient, each))


def of_tokens(
    fn: Callable,
    of: tuple[config.ModelConfig, Any, Float[Array, "B S D"]],
    parts: tuple[Array, ...],
    *,
    num_dims: tuple[int, ...],
    chunk_tokens: int,
) -> list[Array]:
    """fn(logits_BSV, *parts) of all tokens, formed as for `over_chunks`; there is no gradient.

    `fn` gives arrays (B, S, ...) with as many dimensions as `num_dims` says.
    """
    cfg, params, hidden_BSD = of
    head, head_axes, layout = _head_of(cfg, params)
    parts = (hidden_BSD, *parts)

    def of_device(head, *parts):
        low_DV = _whole_head(layout, parts[0], head).astype(parts[0].dtype)
        chunks = _num_chunks(parts[0].shape[:2], chunk_tokens)

        def one(_, part):
            hidden_BSD, *others = part
            return None, fn(_product("BSD,DV->BSV", hidden_BSD, low_DV), *others)

        _, found = jax.lax.scan(one, None, tuple(_split(x, chunks) for x in parts))
        return tuple(_join(x, seq_len=parts[0].shape[1]) for x in found)

    return list(
        parallel.local.on_parts(
            of_device,
            (head, *parts),
            (head_axes, *map(_axes_of_part, parts)),
            [(*_TOKENS, *["whole"] * (count - 2)) for count in num_dims],
        )
    )


def hits(
    cfg: config.ModelConfig,
    params: Any,
    hidden_BSD: Float[Array, "B S D"],
    targets_BS: Int[Array, "B S"],
    *,
    chunk_tokens: int,
) -> Float[Array, "B S"]:
    """1 where the target has the largest logit, the first of equal ones, and 0 elsewhere."""

    def is_hit(logits_BSV, targets_BS):
        return ((jnp.argmax(logits_BSV, axis=-1) == targets_BS).astype(jnp.float32),)

    of = cfg, params, hidden_BSD
    (is_hit_BS,) = of_tokens(is_hit, of, (targets_BS,), num_dims=(2,), chunk_tokens=chunk_tokens)
    return is_hit_BS


def cross_entropy(
    logits_BSV: Float[Array, "B S V"],
    other_BSV: None,
    parts: tuple[Int[Array, "B S"], Float[Array, "B S"]],
    with_grads: bool,
    *,
    z_weight: float,
) -> tuple[Float[Array, ""], tuple[Array, Array], Float[Array, "B S V"] | None]:
    """For `over_chunks`: the sum of w (nll + z_weight logz^2), each nll and logz, the gradient.

    `parts` are targets and w.
    """
    del other_BSV
    targets_BS, weights_BS = parts
    logz_BS, of_target_BS = jax.lax.platform_dependent(
        logits_BSV, targets_BS, cuda=_in_one_pass, default=_in_two_passes
    )
    nll_BS = logz_BS - of_target_BS
    loss = jnp.sum(weights_BS * (nll_BS + z_weight * logz_BS**2))
    each = nll_BS, logz_BS
    if not with_grads:
        return loss, each, None
    softmax_BSV = jnp.exp(logits_BSV - logz_BS[..., None])
    slope_BS = 1.0 + 2.0 * z_weight * logz_BS
    grad_BSV = slope_BS[..., None] * softmax_BSV - _is_target(logits_BSV, targets_BS)
    return loss, each, weights_BS[..., None] * grad_BSV


class _Layout(NamedTuple):
    embed_dim: int  # of the head, which fsdp splits
    is_tied: bool


class _Settings(NamedTuple):
    fn: Callable
    chunk_tokens: int
    layout: _Layout
    other: _Layout | None = None  # of the second model
    is_frozen: bool = False  # the head has no gradient


def _head_of(cfg: config.ModelConfig, params: Any) -> tuple[Array, tuple[str, ...], _Layout]:
    name = "embed" if cfg.tie_embeddings else "head"
    axes = model.describe(cfg)[name].logical_axes
    return params[name], axes, _Layout(axes.index("embed"), cfg.tie_embeddings)


def _axes_of_part(part: Array) -> tuple[str, ...]:
    return (*_TOKENS, *["whole"] * (part.ndim - 2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_device(settings, hidden_BSD, head, given):
    head_DV = _whole_head(settings.layout, hidden_BSD, head)
    return _scan(settings, hidden_BSD, head_DV, given, with_grads=False)[0]


def _forward(settings, hidden_BSD, head, given):
    is_frozen = not head.perturbed  # of a model with adapters: then its gradient is not formed
    hidden_BSD, head, given = hidden_BSD.value, head.value, [x.value for x in given]
    gather = functools.partial(_whole_head, settings.layout, hidden_BSD)
    head_DV, scatter = jax.vjp(gather, head)
    settings = settings._replace(is_frozen=is_frozen)
    found, grad_BSD, grad_DV = _scan(settings, hidden_BSD, head_DV, given, with_grads=True)
    # At once, so that the layers' backward pass keeps this device's part only.
    (grad_head,) = (None,) if is_frozen else scatter(grad_DV)
    return found, (grad_BSD, grad_head)


def _backward(settings, kept, cotangents):
    factor = cotangents[0]  # the others belong to outputs without gradient
    grad_BSD, grad_head = kept
    of_head = None if grad_head is None else factor * grad_head
    return factor.astype(grad_BSD.dtype) * grad_BSD, of_head, None


_of_device.defvjp(_forward, _backward, symbolic_zeros=True)


def _whole_head(layout, like, head):
    head = parallel.local.gather_weight(head, layout.embed_dim, like=like)
    return head.T if layout.is_tied else head


def _scan(settings, hidden_BSD, head_DV, given, *, with_grads: bool):
    """((loss of all devices, *each), its gradients for hidden and head or twice None)."""
    dtype = hidden_BSD.dtype
    low_DV = head_DV.astype(dtype)
    chunks = _num_chunks(hidden_BSD.shape[:2], settings.chunk_tokens)
    logits_of_other = None
    if settings.other is not None:
        other_head, *given = given
        other_DV = _whole_head(settings.other, hidden_BSD, other_head).astype(given[0].dtype)
        logits_of_other = functools.partial(_product, "BSD,DV->BSV", right=other_DV)

    def one(grad_DV, part):
        hidden_BSD, *part = part
        logits_BSV = _product("BSD,DV->BSV", hidden_BSD, low_DV)
        other_BSV = None if logits_of_other is None else logits_of_other(part.pop(0))
        loss, each, grad_BSV = settings.fn(logits_BSV, other_BSV, tuple(part), with_grads)
        if not with_grads:
            return None, (loss, each, None)
        grad_BSV = grad_BSV.astype(dtype)  # else both products would have float32 operands
        if not settings.is_frozen:
            grad_DV += _product("BSD,BSV->DV", hidden_BSD, grad_BSV)
        grad_BSD = _product("BSV,DV->BSD", grad_BSV, low_DV).astype(dtype)
        return grad_DV, (loss, each, grad_BSD)

    start = jnp.zeros_like(head_DV) if with_grads and not settings.is_frozen else None
    parts = tuple(_split(x, chunks) for x in (hidden_BSD, *given))
    grad_DV, (loss, each, grad_BSD) = jax.lax.scan(one, start, parts)
    join = functools.partial(_join, seq_len=hidden_BSD.shape[1])
    found = parallel.local.add_all_up(loss.sum()), *map(join, each)
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
    size = x.shape[1] // chunks
    return jnp.moveaxis(x.reshape(x.shape[0], chunks, size, *x.shape[2:]), 1, 0)


def _join(x, seq_len):
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])[:, :seq_len]


def _is_target(logits_BSV, targets_BS):
    return targets_BS[..., None] == jnp.arange(logits_BSV.shape[-1])


def _in_two_passes(logits_BSV, targets_BS):
    """(logz, logit of the target); the first pass finds the highest logit."""
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
