"""Decoding's latent attention: over cached latents, key and value projections absorbed.

    cached per layer and token: [norm(c), rope(k_R)]               kv_lora_rank + rotary numbers
    score_h = scale [q_nope W_uk_h, rope(q_rope)] . cached         W_uk absorbed into the query
    out_h   = (softmax(score_h) c) W_uv_h                          W_uv absorbed into the output

Keys and values of single heads are never formed.

Letters: B rows, S new tokens of a row, T cache length, H heads, N qk_nope_head_dim, R rotary,
C kv_lora_rank, J = C + R, U v_head_dim, D hidden.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import causal_attention, layers, mla, rope, xla_hints
from kanana_jax.model.param_specs import ParamSpec

Params = dict[str, Any]


class AbsorbedAttention(mla.Projections):
    """Attention over cached latents: W_uk and W_uv as two stacks, one matrix per head."""

    def __init__(self, cfg: ModelConfig, execution: ExecutionConfig, *, rngs: nnx.Rngs):
        super().__init__(cfg, execution, rngs=rngs)
        heads, latent, value_dim = cfg.num_heads, mla.kv_lora_rank(cfg), cfg.v_head_dim
        self.w_key = layers.normal(rngs, cfg, heads, cfg.qk_nope_head_dim, latent)
        self.w_value = layers.normal(rngs, cfg, heads, latent, value_dim)
        self.wo = layers.normal(rngs, cfg, heads, value_dim, cfg.hidden_size)

    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        rotation: rope.Rotation,
        positions_BS: Int[Array, "B S"],
        cache: Float[Array, "rows T J"],
        row_B: Int[Array, "B"] | None,
    ) -> tuple[Float[Array, "B S D"], Float[Array, "rows T J"]]:
        """Output and cache, as `causal_attention.store` writes and reads it."""
        cfg, dtype = self.cfg, x_BSD.dtype
        nope, latent = cfg.qk_nope_head_dim, mla.kv_lora_rank(cfg)
        new_BSJ = xla_hints.pad_single_row(
            lambda x: jnp.concatenate(self.latents(x, rotation), axis=-1), x_BSD
        )
        cache, cached_BTJ = causal_attention.store(cache, new_BSJ, positions_BS, row_B)

        q_BSHK = xla_hints.pad_single_row(lambda x: self.queries(x, rotation), x_BSD)
        w_key_HNC = self.w_key[...].astype(dtype)
        q_latent_BSHC = jnp.einsum("BSHN,HNC->BSHC", q_BSHK[..., :nope], w_key_HNC)
        q_latent_BSHC = xla_hints.own_kernel(q_latent_BSHC)
        q_BSHJ = jnp.concatenate([q_latent_BSHC, q_BSHK[..., nope:]], axis=-1)
        score_BHST = jnp.einsum(
            "BSHJ,BTJ->BHST", q_BSHJ, cached_BTJ, preferred_element_type=jnp.float32
        )
        weight_BHST = causal_attention.cached_weights(cfg, score_BHST, positions_BS, dtype)
        mean_BSHC = xla_hints.weighted_latents(weight_BHST, cached_BTJ, latent)
        out_BSHU = jnp.einsum("BSHC,HCU->BSHU", mean_BSHC, self.w_value[...].astype(dtype))
        wo_HUD = self.wo[...].astype(dtype)
        out_BSD = xla_hints.pad_single_row(
            lambda x: jnp.einsum("BSHU,HUD->BSD", x, wo_HUD), out_BSHU
        )
        return out_BSD, cache


def init_cache(
    cfg: ModelConfig, num_rows: int, length: int, dtype: jnp.dtype
) -> Float[Array, "rows T J"]:
    return jnp.zeros((num_rows, length, mla.kv_lora_rank(cfg) + cfg.qk_rope_head_dim), dtype)


def absorb(cfg: ModelConfig, params: Params) -> Params:
    """Parameters of `AbsorbedAttention` from those of one layer, arrays of numpy or jax."""
    nope, wkv_b_CHM = cfg.qk_nope_head_dim, params["wkv_b"]
    return _with_absorbed(
        params,
        w_key=wkv_b_CHM[..., :nope].transpose(1, 2, 0),
        w_value=wkv_b_CHM[..., nope:].transpose(1, 0, 2),
    )


def absorb_specs(specs: dict[str, ParamSpec]) -> dict[str, ParamSpec]:
    """The specs of `AbsorbedAttention`'s parameters: roles and axes, no matrices."""
    return _with_absorbed(
        specs,
        w_key=ParamSpec(role="matrix", logical_axes=("heads", "head_dim", "kv_lora")),
        w_value=ParamSpec(role="matrix", logical_axes=("heads", "kv_lora", "head_dim")),
    )


def _with_absorbed(params: dict[str, Any], **absorbed: Any) -> dict[str, Any]:
    """A layer's attention with these leaves in the place of wkv_b."""
    return {name: leaf for name, leaf in params.items() if name != "wkv_b"} | absorbed
