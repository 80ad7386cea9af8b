"""What a model does with calibration text: the sums from which the importance of its parts follows.

Text comes in batches and each adds to the sums, so that nothing grows with their number. Sizes are
those of arXiv:2407.14679: the mean of |x| over a sequence, then squares summed over sequences.

    norms       of each input of an RMSNorm: u = x / rms(x)
    by head     |o_h W_o_h|, the size of what the head adds to the stream
    latents     u u^T of the input of a latent's RMSNorm
    MLPs        |silu(gate) up|; of an expert over its own tokens
    experts     tokens, and router weight times |output| (REAP, arXiv:2510.13999)
    turned      1 - cos(x, x') of the residual stream before and behind a layer

Letters: B batch, S sequence, D hidden, H heads, U width of a head's values, I width of an MLP,
E experts, K experts of a token, F width of an expert, C rank of a latent, N choices B S K.
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from kanana_jax.batch import Inputs
from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import layers, mla, moe, rope, transformer
from kanana_jax.model.transformer import Weights
from pallas_kernels.moe_mlp.activation import swiglu


class Norm(NamedTuple):
    """The sums of an RMSNorm of the residual stream."""

    energy: Float[Array, "*L D"]  # u^2, summed over tokens
    size: Float[Array, "*L D"]  # of its output


class Activations(NamedTuple):
    """Sums over all tokens; those of a stack have its layers on axis 0."""

    stacks: dict[str, dict[str, Any]]  # "dense_layers" before "moe_layers", if there are any
    final_norm: Norm


def observe(
    cfg: ModelConfig,
    weights: Weights,
    batches: Iterable[Inputs],
    execution: ExecutionConfig = ExecutionConfig(),
) -> Activations:
    """The sums over all batches, which should have one shape; padding counts nowhere."""
    on_device = jax.tree.map(jnp.asarray, weights)
    found = (_observe(cfg, execution, on_device, batch) for batch in batches)
    return functools.reduce(lambda x, y: jax.tree.map(jnp.add, x, y), found)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _observe(
    cfg: ModelConfig, execution: ExecutionConfig, weights: Weights, inputs: Inputs
) -> Activations:
    bound = transformer.bind(cfg, weights.params, execution)
    segment_ids_BS = jnp.asarray(inputs.segment_ids)
    rotation = rope.rotation(cfg, jnp.asarray(inputs.positions))
    x_BSD = bound.embed[...][jnp.asarray(inputs.tokens)].astype(layers.compute_dtype(execution))
    biases = {
        "dense_layers": jnp.zeros((cfg.num_dense_layers, 0)),
        "moe_layers": weights.buffers["router_bias"],
    }
    stacks = {}
    for name, bias_LE in biases.items():
        if not bias_LE.shape[0]:
            continue
        body = functools.partial(_layer, cfg, rotation, segment_ids_BS)
        x_BSD, stacks[name] = jax.lax.scan(body, x_BSD, (getattr(bound, name), bias_LE))
    is_token_BS = segment_ids_BS != 0
    return Activations(stacks, _norm(cfg, x_BSD, bound.final_norm, is_token_BS)[1])


def _layer(cfg, rotation, segment_ids_BS, x_BSD, layer):
    """The residual stream behind a layer, and what the layer did."""
    block, bias_E = layer
    is_token_BS = segment_ids_BS != 0

    def attend(normed_BSD):
        out_BSHU, _ = block.attention.by_head(normed_BSD, rotation, segment_ids_BS)
        attended_BSD = block.attention.output(out_BSHU)
        return attended_BSD, (attended_BSD, out_BSHU)

    after_BSD, ((attended_BSD, out_BSHU), _) = block.with_attention(
        attend, x_BSD, bias_E, is_token_BS
    )
    normed_BSD, attention_norm = _norm(cfg, x_BSD, block.attention_norm, is_token_BS)
    read_BSD, mlp_norm = _norm(cfg, x_BSD + attended_BSD, block.mlp_norm, is_token_BS)
    seen = {
        "attention_norm": attention_norm,
        "mlp_norm": mlp_norm,
        "heads": _heads(block.attention.wo[...], out_BSHU, is_token_BS),
        "turned": _sum(_turned(x_BSD, after_BSD), is_token_BS),
    }
    seen |= _latents(cfg, block.attention, normed_BSD, is_token_BS)
    if not isinstance(block.mlp, moe.MoE):
        return after_BSD, seen | {"mlp": _sizes(block.mlp.activated(read_BSD), is_token_BS)}
    seen |= _experts(cfg, block.mlp, read_BSD, bias_E, is_token_BS)
    if cfg.num_shared_experts:
        seen["shared"] = _sizes(block.mlp.shared.activated(read_BSD), is_token_BS)
    return after_BSD, seen


def _norm(
    cfg: ModelConfig, x_BSD: Array, gamma: nnx.Param | None, is_token_BS: Bool[Array, "B S"]
) -> tuple[Float[Array, "B S D"], Norm]:
    """What a norm of the stream gives, and its sums."""
    normed_BSD = layers.norm(cfg, x_BSD, gamma)
    unit_BSD = _unit(x_BSD, cfg.rms_norm_eps)
    return normed_BSD, Norm(_sum(unit_BSD**2, is_token_BS), _sizes(normed_BSD, is_token_BS))


def _unit(x: Array, eps: float) -> Array:
    """RMSNorm without its gamma, in float32."""
    return layers.rms_norm(x.astype(jnp.float32), None, eps, zero_centered=False)


def _heads(wo_HUD: Array, out_BSHU: Array, is_token_BS: Array) -> Float[Array, "H"]:
    """By way of W_o W_o^T, so that what single heads add, (B, S, H, D), is never formed."""
    gram_HUV = jnp.einsum("HUD,HVD->HUV", wo_HUD, wo_HUD)
    wide_BSHU = out_BSHU.astype(jnp.float32)
    squares_BSH = jnp.einsum("BSHU,HUV,BSHV->BSH", wide_BSHU, gram_HUV, wide_BSHU)
    return _sizes(jnp.sqrt(jnp.maximum(squares_BSH, 0.0)), is_token_BS)


def _latents(cfg: ModelConfig, attention: Any, x_BSD: Array, is_token_BS: Array) -> dict[str, Any]:
    """Second moments, by the name of the latent's norm."""
    found = {}
    if cfg.kv_lora_rank is not None:
        found["kv_norm"] = attention.wkv_a[...][:, : cfg.kv_lora_rank]
    if cfg.q_lora_rank is not None:
        found["q_norm"] = attention.wq_a[...]
    return {name: _moment(x_BSD, w_DC, is_token_BS) for name, w_DC in found.items()}


def _moment(x_BSD: Array, w_DC: Array, is_token_BS: Array) -> Float[Array, "C C"]:
    c_BSC = jnp.einsum("BSD,DC->BSC", x_BSD, w_DC.astype(x_BSD.dtype))
    unit_BSC = _unit(c_BSC, mla.LATENT_NORM_EPS) * is_token_BS[..., None]
    return jnp.einsum("BSC,BSE->CE", unit_BSC, unit_BSC)


def _experts(
    cfg: ModelConfig, mlp: moe.MoE, x_BSD: Array, bias_E: Array, is_token_BS: Array
) -> dict[str, Any]:
    """Sums over each expert's tokens, which are sorted by expert."""
    score_BSE = moe.router_scores(x_BSD, mlp.router[...])
    expert_BSK, weight_BSK = moe.choose(score_BSE, bias_E, cfg)
    num_experts, top_k = cfg.num_experts, cfg.num_experts_per_token
    order_N = jnp.argsort(expert_BSK.ravel(), stable=True)
    expert_N, token_N = expert_BSK.ravel()[order_N], order_N // top_k
    counts_E = jnp.bincount(expert_N, length=num_experts)
    x_ND = x_BSD.reshape(-1, x_BSD.shape[-1])[token_N]
    w_gate_up, w_down = (w[...].astype(x_BSD.dtype) for w in (mlp.w_gate_up, mlp.w_down))
    gate_NF, up_NF = (
        jax.lax.ragged_dot(x_ND, w_gate_up[:, half].swapaxes(1, 2), counts_E) for half in (0, 1)
    )
    activated_NF = swiglu(gate_NF, up_NF, cfg.swiglu_clamp)
    out_ND = jax.lax.ragged_dot(activated_NF, w_down, counts_E).astype(jnp.float32)
    is_token_N = is_token_BS.ravel()[token_N].astype(jnp.float32)
    added_N = weight_BSK.ravel()[order_N] * jnp.linalg.norm(out_ND, axis=-1)

    def by_expert(x):
        x = x * is_token_N.reshape(-1, *(1,) * (x.ndim - 1))
        return jax.ops.segment_sum(x, expert_N, num_experts, indices_are_sorted=True)

    return {
        "expert_tokens": by_expert(jnp.ones_like(is_token_N)),
        "expert_added": by_expert(added_N),
        "experts": by_expert(jnp.abs(activated_NF.astype(jnp.float32))),
    }


def _turned(x_BSD: Array, after_BSD: Array) -> Float[Array, "B S"]:
    x, y = x_BSD.astype(jnp.float32), after_BSD.astype(jnp.float32)
    sizes = jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1)
    return 1.0 - (x * y).sum(axis=-1) / jnp.maximum(sizes, 1e-20)


def _sum(x: Array, is_token_BS: Array) -> Array:
    """The sum over tokens."""
    return jnp.einsum("bs...,bs->...", x, is_token_BS.astype(jnp.float32))


def _sizes(x: Array, is_token_BS: Array) -> Array:
    """The mean of |x| over each sequence's tokens; its squares summed over sequences."""
    is_token_BS = is_token_BS.astype(jnp.float32)
    share_BS = is_token_BS / jnp.maximum(is_token_BS.sum(axis=1, keepdims=True), 1.0)
    means = jnp.einsum("bs...,bs->b...", jnp.abs(x.astype(jnp.float32)), share_BS)
    return (means**2).sum(axis=0)
