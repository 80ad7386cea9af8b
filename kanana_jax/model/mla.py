"""Multi-head latent attention (arXiv:2405.04434, sec. 2.1).

    q_h      = [q_nope, rope(q_rope)]                 from x, or from norm(x W_qa)
    c, k_R   = split(x W_kva)                         one latent and one rotary key for all heads
    k_h, v_h = split(norm(c) W_kvb)                   then k_h <- [k_h, rope(k_R)]
    out      = concat_h softmax(scale q_h k_h^T) v_h W_o

Letters: B batch, S sequence, D hidden, H heads, N qk_nope_head_dim, R qk_rope_head_dim,
U v_head_dim, M = N + U, K = N + R, C kv_lora_rank, Q q_lora_rank.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

import pallas_kernels
from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import layers, rope, xla_hints
from kanana_jax.parallel import local

# The family's published code builds the latent norms with this default, whatever rms_norm_eps is.
LATENT_NORM_EPS = 1e-6


class Projections(nnx.Module):
    """What attention reads: queries of each head, one latent and one rotary key for all heads."""

    def __init__(self, cfg: ModelConfig, execution: ExecutionConfig, *, rngs: nnx.Rngs):
        self.cfg, self.execution = cfg, execution
        hidden, heads, latent = cfg.hidden_size, cfg.num_heads, cfg.kv_lora_rank
        if cfg.q_lora_rank is None:
            self.wq = layers.normal(rngs, cfg, hidden, heads, cfg.qk_head_dim)
        else:
            self.wq_a = layers.normal(rngs, cfg, hidden, cfg.q_lora_rank)
            self.q_norm = layers.norm_gamma(cfg, cfg.q_lora_rank)
            self.wq_b = layers.normal(rngs, cfg, cfg.q_lora_rank, heads, cfg.qk_head_dim)
        self.wkv_a = layers.normal(rngs, cfg, hidden, latent + cfg.qk_rope_head_dim)
        self.kv_norm = layers.norm_gamma(cfg, latent)

    def queries(
        self, x_BSD: Float[Array, "B S D"], rotation: rope.Rotation
    ) -> Float[Array, "B S H K"]:
        dtype, nope = x_BSD.dtype, self.cfg.qk_nope_head_dim
        if self.cfg.q_lora_rank is None:
            q_BSHK = jnp.einsum("BSD,DHK->BSHK", x_BSD, self.wq[...].astype(dtype))
        else:
            c_BSQ = jnp.einsum("BSD,DQ->BSQ", x_BSD, self.wq_a[...].astype(dtype))
            c_BSQ = self._latent_norm(c_BSQ, self.q_norm)
            q_BSHK = jnp.einsum("BSQ,QHK->BSHK", c_BSQ, self.wq_b[...].astype(dtype))
        q_BSHK = local.constrain(q_BSHK, ("batch", "sequence", "heads", "head_dim"))
        q_rope_BSHR = rope.rotate(q_BSHK[..., nope:], rotation)
        return jnp.concatenate([q_BSHK[..., :nope], q_rope_BSHR], axis=-1)

    def latents(
        self, x_BSD: Float[Array, "B S D"], rotation: rope.Rotation
    ) -> tuple[Float[Array, "B S C"], Float[Array, "B S R"]]:
        """What all heads share, and all that decoding has to remember: latent and rotary key."""
        latent = self.cfg.kv_lora_rank
        kv_a = jnp.einsum("BSD,DC->BSC", x_BSD, self.wkv_a[...].astype(x_BSD.dtype))
        kv_a = local.constrain(kv_a, ("batch", "sequence", "whole"))
        c_BSC = self._latent_norm(kv_a[..., :latent], self.kv_norm)
        return c_BSC, rope.rotate(kv_a[..., None, latent:], rotation)[:, :, 0]

    def _latent_norm(self, x: Array, gamma: nnx.Param) -> Array:
        return layers.rms_norm(
            x, gamma[...], LATENT_NORM_EPS, zero_centered=self.cfg.zero_centered_gamma
        )


class LatentAttention(Projections):
    """Attention of whole sequences, over keys and values of every head."""

    def __init__(self, cfg: ModelConfig, execution: ExecutionConfig, *, rngs: nnx.Rngs):
        super().__init__(cfg, execution, rngs=rngs)
        kv_dim = cfg.qk_nope_head_dim + cfg.v_head_dim
        self.wkv_b = layers.normal(rngs, cfg, cfg.kv_lora_rank, cfg.num_heads, kv_dim)
        self.wo = layers.normal(rngs, cfg, cfg.num_heads, cfg.v_head_dim, cfg.hidden_size)

    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        rotation: rope.Rotation,
        segment_ids_BS: Int[Array, "B S"],
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B H"]]:
        """Returns the output and each head's largest logit; padding (segment 0) has no part in it.

        A sequence of padding only has -inf as its largest logit.
        """
        # Padding asks with an id that no key has, so that it sees nothing; a large one, because
        # kernels skip blocks by the smallest and largest ids in them, and padding comes last.
        no_id = jnp.iinfo(jnp.int32).max
        query_ids_BS = jnp.where(segment_ids_BS == 0, no_id, segment_ids_BS)
        tokens = ("batch", "sequence")
        out_BSHU, max_logits_BH = local.on_parts(
            self._attend,
            (
                self.queries(x_BSD, rotation),
                *self.latents(x_BSD, rotation),
                self.wkv_b[...].astype(x_BSD.dtype),
                query_ids_BS,
                segment_ids_BS,
            ),
            (
                (*tokens, "heads", "head_dim"),
                (*tokens, "whole"),
                (*tokens, "whole"),
                ("kv_lora", "heads", "head_dim"),
                tokens,
                tokens,
            ),
            [(*tokens, "heads", "head_dim"), ("batch", "heads")],
        )
        wo_HUD = self.wo[...].astype(x_BSD.dtype)
        return jnp.einsum("BSHU,HUD->BSD", out_BSHU, wo_HUD), max_logits_BH

    def _attend(self, q_BSHK, c_BSC, k_rope_BSR, wkv_b_CHM, query_ids_BS, key_ids_BS):
        """One device's queries and heads, on the keys of the whole sequence.

        Over the context axis latents travel, which are small, and each device makes its heads'
        keys and values of them. The last device's causal work is every device's: keys that come
        later are there but carry the id of padding.
        """
        wkv_b_CHM = local.gather_weight(wkv_b_CHM, 0, like=q_BSHK)
        c_BTC, num_later = local.gather_past(c_BSC, "context", 1)
        c_BTC = local.vary(c_BTC, "tensor")  # gradients of both its products are summed at once
        k_rope_BTR, _ = local.gather_past(k_rope_BSR, "context", 1)
        key_ids_BT, _ = local.gather_past(key_ids_BS, "context", 1)
        key_ids_BT = jnp.where(jnp.arange(key_ids_BT.shape[1]) < num_later, 0, key_ids_BT)
        out_BSHU, max_logits_BH = pallas_kernels.flash_attention(
            q_BSHK,
            *self.keys_and_values(c_BTC, k_rope_BTR, wkv_b_CHM),
            segment_ids=(query_ids_BS, key_ids_BT),
            causal=True,
            scale=rope.softmax_scale(self.cfg),
            implementation=self.execution.attention_implementation,
            deterministic=self.execution.deterministic,
        )
        return out_BSHU, local.largest(max_logits_BH, "context")

    def keys_and_values(
        self,
        c_BSC: Float[Array, "B S C"],
        k_rope_BSR: Float[Array, "B S R"],
        wkv_b_CHM: Float[Array, "C H M"],
    ) -> tuple[Float[Array, "B S H K"], Float[Array, "B S H U"]]:
        nope = self.cfg.qk_nope_head_dim
        k_nope_BSHN, v_BSHU = xla_hints.separate_products(c_BSC, wkv_b_CHM, nope)
        shape_BSHR = (*k_nope_BSHN.shape[:3], self.cfg.qk_rope_head_dim)
        k_rope_BSHR = jnp.broadcast_to(k_rope_BSR[:, :, None], shape_BSHR)
        return jnp.concatenate([k_nope_BSHN, k_rope_BSHR], axis=-1), v_BSHU
