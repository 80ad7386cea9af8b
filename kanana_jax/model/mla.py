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
from kanana_jax.config import ModelConfig
from kanana_jax.model import layers, local, rope

# The family's published code builds the latent norms with this default, whatever rms_norm_eps is.
LATENT_NORM_EPS = 1e-6


class LatentAttention(nnx.Module):
    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        hidden, heads, latent = cfg.hidden_size, cfg.num_heads, cfg.kv_lora_rank
        if cfg.q_lora_rank is None:
            self.wq = layers.normal(rngs, cfg, hidden, heads, cfg.qk_head_dim)
        else:
            self.wq_a = layers.normal(rngs, cfg, hidden, cfg.q_lora_rank)
            self.q_norm = layers.norm_gamma(cfg, cfg.q_lora_rank)
            self.wq_b = layers.normal(rngs, cfg, cfg.q_lora_rank, heads, cfg.qk_head_dim)
        self.wkv_a = layers.normal(rngs, cfg, hidden, latent + cfg.qk_rope_head_dim)
        self.kv_norm = layers.norm_gamma(cfg, latent)
        kv_dim = cfg.qk_nope_head_dim + cfg.v_head_dim
        self.wkv_b = layers.normal(rngs, cfg, latent, heads, kv_dim)
        self.wo = layers.normal(rngs, cfg, heads, cfg.v_head_dim, hidden)

    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        rotation: rope.Rotation,
        segment_ids_BS: Int[Array, "B S"],
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B H"]]:
        """Returns the output and each head's largest logit; padding (segment 0) has no part in it.

        A sequence of padding only has -inf as its largest logit.
        """
        # Padding asks with an id that no key has, so that it sees nothing.
        query_ids_BS = jnp.where(segment_ids_BS == 0, -1, segment_ids_BS)
        out_BSHU, max_logits_BH = local.on_local_sequences(
            self._attend,
            (
                self.queries(x_BSD, rotation),
                *self.keys_and_values(x_BSD, rotation),
                query_ids_BS,
                segment_ids_BS,
            ),
        )
        wo_HUD = self.wo[...].astype(x_BSD.dtype)
        return jnp.einsum("BSHU,HUD->BSD", out_BSHU, wo_HUD), max_logits_BH

    def _attend(self, q, k, v, query_ids, key_ids):
        return pallas_kernels.flash_attention(
            q,
            k,
            v,
            segment_ids=(query_ids, key_ids),
            causal=True,
            scale=rope.softmax_scale(self.cfg),
            implementation=self.cfg.attention_implementation,
        )

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
        q_rope_BSHR = rope.rotate(q_BSHK[..., nope:], rotation)
        return jnp.concatenate([q_BSHK[..., :nope], q_rope_BSHR], axis=-1)

    def keys_and_values(
        self, x_BSD: Float[Array, "B S D"], rotation: rope.Rotation
    ) -> tuple[Float[Array, "B S H K"], Float[Array, "B S H U"]]:
        nope = self.cfg.qk_nope_head_dim
        c_BSC, k_rope_BS1R = self.latents(x_BSD, rotation)
        kv_BSHM = jnp.einsum("BSC,CHM->BSHM", c_BSC, self.wkv_b[...].astype(x_BSD.dtype))
        k_nope_BSHN, v_BSHU = kv_BSHM[..., :nope], kv_BSHM[..., nope:]
        shape_BSHR = (*k_nope_BSHN.shape[:3], self.cfg.qk_rope_head_dim)
        k_rope_BSHR = jnp.broadcast_to(k_rope_BS1R, shape_BSHR)
        return jnp.concatenate([k_nope_BSHN, k_rope_BSHR], axis=-1), v_BSHU

    def latents(
        self, x_BSD: Float[Array, "B S D"], rotation: rope.Rotation
    ) -> tuple[Float[Array, "B S C"], Float[Array, "B S 1 R"]]:
        """What all heads share, and all that decoding has to remember of a token."""
        latent = self.cfg.kv_lora_rank
        kv_a = jnp.einsum("BSD,DC->BSC", x_BSD, self.wkv_a[...].astype(x_BSD.dtype))
        c_BSC = self._latent_norm(kv_a[..., :latent], self.kv_norm)
        return c_BSC, rope.rotate(kv_a[..., None, latent:], rotation)

    def _latent_norm(self, x: Array, gamma: nnx.Param) -> Array:
        return layers.rms_norm(
            x, gamma[...], LATENT_NORM_EPS, zero_centered=self.cfg.zero_centered_gamma
        )
