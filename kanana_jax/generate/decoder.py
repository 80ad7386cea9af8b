"""The forward pass over a cache of latents: a prompt in chunks, then one token at a time.

    cached per layer and token: [norm(c), rope(k_R)]               kv_lora_rank + rotary numbers
    score_h = scale [q_nope W_uk_h, rope(q_rope)] . cached         W_uk absorbed into the query
    out_h   = (softmax(score_h) c) W_uv_h                          W_uv absorbed into the output

Keys and values of single heads are never formed. A cache row belongs to one sequence and holds
position t at index t. What lies past a row's position is from padding or an earlier sequence; it is
overwritten before a query may see it.

Letters: B rows, S new tokens of a row, T cache length, L layers, H heads, N qk_nope_head_dim,
R rotary, C kv_lora_rank, J = C + R, U v_head_dim, D hidden, V vocabulary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kanana_jax import config, model
from kanana_jax.model import layers, mla, rope

Cache = Float[Array, "L B T J"]


def init_cache(cfg: config.ModelConfig, num_rows: int, length: int) -> Cache:
    width = cfg.kv_lora_rank + cfg.qk_rope_head_dim
    return jnp.zeros((cfg.num_layers, num_rows, length, width), layers.compute_dtype(cfg))


def forward(
    cfg: config.ModelConfig,
    weights: Any,
    cache_LBTJ: Cache,
    tokens_BS: Int[Array, "B S"],
    start_B: Int[Array, "B"],
) -> tuple[Float[Array, "B S D"], Cache]:
    """What the head reads of tokens at positions start, start + 1, ...; and the cache with them.

    `weights` is {"params", "router_bias"}. Rows must not run past the cache.
    """
    module = model.bind(cfg, weights["params"])
    positions_BS = start_B[:, None] + jnp.arange(tokens_BS.shape[1])
    rotation = rope.rotation(cfg, positions_BS)
    x_BSD = module.embed[...][tokens_BS].astype(layers.compute_dtype(cfg))
    is_token_BS = jnp.ones(tokens_BS.shape, bool)

    def body(carry, layer):
        x_BSD, cache_LBTJ = carry
        block, bias_E, index = layer
        attend = functools.partial(
            _attend, block.attention, cache_LBTJ, index, rotation, positions_BS
        )
        x_BSD, (cache_LBTJ, _) = block.around(attend, x_BSD, bias_E, is_token_BS)
        return (x_BSD, cache_LBTJ), None

    carry, first = (x_BSD, cache_LBTJ), 0
    for name, bias_LE in (
        ("dense_layers", jnp.zeros((cfg.num_dense_layers, 0))),
        ("moe_layers", weights["router_bias"]),
    ):
        if bias_LE.shape[0]:
            index_L = first + jnp.arange(bias_LE.shape[0])
            carry, _ = jax.lax.scan(body, carry, (getattr(module, name), bias_LE, index_L))
            first += bias_LE.shape[0]
    gamma_D = module.final_norm[...]
    hidden_BSD = layers.rms_norm(
        carry[0], gamma_D, cfg.rms_norm_eps, zero_centered=cfg.zero_centered_gamma
    )
    return hidden_BSD, carry[1]


def _attend(
    attention: mla.LatentAttention,
    cache_LBTJ: Cache,
    layer: Int[Array, ""],
    rotation: rope.Rotation,
    positions_BS: Int[Array, "B S"],
    x_BSD: Float[Array, "B S D"],
) -> tuple[Float[Array, "B S D"], Cache]:
    """Writes the new tokens' latents and attends over all that the cache then holds of each row."""
    cfg, dtype = attention.cfg, x_BSD.dtype
    nope, latent = cfg.qk_nope_head_dim, cfg.kv_lora_rank
    c_BSC, k_rope_BSR = attention.latents(x_BSD, rotation)
    new_BSJ = jnp.concatenate([c_BSC, k_rope_BSR], axis=-1)
    row_B1 = jnp.arange(x_BSD.shape[0])[:, None]
    cache_LBTJ = cache_LBTJ.at[layer, row_B1, positions_BS].set(new_BSJ)
    cached_BTJ = cache_LBTJ[layer]

    w_CHM = attention.wkv_b[...].astype(dtype)
    q_BSHK = attention.queries(x_BSD, rotation)
    q_latent_BSHC = jnp.einsum("BSHN,CHN->BSHC", q_BSHK[..., :nope], w_CHM[..., :nope])
    q_BSHJ = jnp.concatenate([q_latent_BSHC, q_BSHK[..., nope:]], axis=-1)
    score_BHST = jnp.einsum(
        "BSHJ,BTJ->BHST", q_BSHJ, cached_BTJ, preferred_element_type=jnp.float32
    )
    is_seen_BST = jnp.arange(cached_BTJ.shape[1]) <= positions_BS[..., None]
    score_BHST = jnp.where(is_seen_BST[:, None], score_BHST * rope.softmax_scale(cfg), -jnp.inf)
    weight_BHST = jax.nn.softmax(score_BHST, axis=-1).astype(dtype)
    seen_BSHC = jnp.einsum("BHST,BTC->BSHC", weight_BHST, cached_BTJ[..., :latent])
    out_BSHU = jnp.einsum("BSHC,CHU->BSHU", seen_BSHC, w_CHM[..., nope:])
    return jnp.einsum("BSHU,HUD->BSD", out_BSHU, attention.wo[...].astype(dtype)), cache_LBTJ


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def prefill(
    cfg: config.ModelConfig,
    weights: Any,
    cache_LBTJ: Cache,
    row: Int[Array, ""],
    tokens_S: Int[Array, "S"],
    start: Int[Array, ""],
    last: Int[Array, ""],
) -> tuple[Float[Array, "V"], Cache]:
    """A chunk of one row's prompt from position `start`; the logits after its token `last`."""
    one_row = jax.lax.dynamic_slice_in_dim(cache_LBTJ, row, 1, axis=1)
    hidden_BSD, one_row = forward(cfg, weights, one_row, tokens_S[None], start[None])
    cache_LBTJ = jax.lax.dynamic_update_slice_in_dim(cache_LBTJ, one_row, row, axis=1)
    return model.logits(cfg, weights["params"], hidden_BSD[0, last]), cache_LBTJ


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def decode(
    cfg: config.ModelConfig,
    weights: Any,
    cache_LBTJ: Cache,
    tokens_B: Int[Array, "B"],
    positions_B: Int[Array, "B"],
) -> tuple[Float[Array, "B V"], Cache]:
    """One token of every row; the logits after it."""
    hidden_B1D, cache_LBTJ = forward(cfg, weights, cache_LBTJ, tokens_B[:, None], positions_B)
    return model.logits(cfg, weights["params"], hidden_B1D[:, 0]), cache_LBTJ
