"""Multi-head latent attention (arXiv:2405.04434, sec. 2.1).

    q_h      = [q_nope, rope(q_rope)]                 from x, or from norm(x W_qa)
    c, k_R   = split(x W_kva)                         one latent and one rotary key for all heads
    k_h, v_h = split(norm(c) W_kvb)                   then k_h <- [k_h, rope(k_R)]
    out      = concat_h softmax(scale q_h k_h^T) v_h W_o

Letters: B batch, S sequence, D hidden, H heads, N qk_nope_head_dim, R qk_rope_head_dim,
U v_head_dim, M = N + U, K = N + R, C kv_lora_rank, Q q_lora_rank, L layers.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import causal_attention, layers, param_specs, precision, rope, xla_hints
from kanana_jax.optim.specs import QKClipSpec
from kanana_jax.parallel import local

# The family's published code builds the latent norms with this default, whatever rms_norm_eps is.
LATENT_NORM_EPS = 1e-6


class Projections(nnx.Module):
    """What attention reads: queries of each head, one latent and one rotary key for all heads."""

    def __init__(self, cfg: ModelConfig, execution: ExecutionConfig, *, rngs: nnx.Rngs):
        self.cfg, self.execution = cfg, execution
        hidden, heads, latent = cfg.hidden_size, cfg.num_heads, kv_lora_rank(cfg)
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
        einsum = precision.einsum(self.execution)
        if self.cfg.q_lora_rank is None:
            q_BSHK = einsum("BSD,DHK->BSHK", x_BSD, self.wq[...].astype(dtype))
        else:
            c_BSQ = einsum("BSD,DQ->BSQ", x_BSD, self.wq_a[...].astype(dtype))
            c_BSQ = self._latent_norm(c_BSQ, self.q_norm)
            q_BSHK = einsum("BSQ,QHK->BSHK", c_BSQ, self.wq_b[...].astype(dtype))
        q_BSHK = local.constrain(q_BSHK, ("batch", "sequence", "heads", "head_dim"))
        q_rope_BSHR = rope.rotate(q_BSHK[..., nope:], rotation)
        return jnp.concatenate([q_BSHK[..., :nope], q_rope_BSHR], axis=-1)

    def latents(
        self, x_BSD: Float[Array, "B S D"], rotation: rope.Rotation
    ) -> tuple[Float[Array, "B S C"], Float[Array, "B S R"]]:
        """What all heads share, and all that decoding has to remember: latent and rotary key."""
        latent = kv_lora_rank(self.cfg)
        wkv_a = self.wkv_a[...].astype(x_BSD.dtype)
        kv_a = precision.einsum(self.execution)("BSD,DC->BSC", x_BSD, wkv_a)
        kv_a = local.constrain(kv_a, ("batch", "sequence", "whole"))
        c_BSC = self._latent_norm(kv_a[..., :latent], self.kv_norm)
        return c_BSC, rope.rotate(kv_a[..., None, latent:], rotation)[:, :, 0]

    def _latent_norm(self, x: Array, gamma: nnx.Param | None) -> Array:
        return layers.norm(self.cfg, x, gamma, LATENT_NORM_EPS)


def kv_lora_rank(cfg: ModelConfig) -> int:
    assert cfg.kv_lora_rank is not None  # else the model has another attention
    return cfg.kv_lora_rank


class LatentAttention(Projections):
    """Attention of whole sequences, over keys and values of every head."""

    def __init__(self, cfg: ModelConfig, execution: ExecutionConfig, *, rngs: nnx.Rngs):
        super().__init__(cfg, execution, rngs=rngs)
        kv_dim = cfg.qk_nope_head_dim + cfg.v_head_dim
        self.wkv_b = layers.normal(rngs, cfg, kv_lora_rank(cfg), cfg.num_heads, kv_dim)
        self.wo = layers.normal(rngs, cfg, cfg.num_heads, cfg.v_head_dim, cfg.hidden_size)

    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        rotation: rope.Rotation,
        segment_ids_BS: Int[Array, "B S"],
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B H"]]:
        """Returns the output and each head's largest logit; padding (segment 0) has no part in it.

        A sequence of nothing but padding has -inf as its largest logit.
        """
        out_BSHU, max_logits_BH = self.by_head(x_BSD, rotation, segment_ids_BS)
        return self.output(out_BSHU), max_logits_BH

    def by_head(
        self,
        x_BSD: Float[Array, "B S D"],
        rotation: rope.Rotation,
        segment_ids_BS: Int[Array, "B S"],
    ) -> tuple[Float[Array, "B S H U"], Float[Array, "B H"]]:
        """The output of each head, and its largest logit."""
        tokens = ("batch", "sequence")
        return local.on_parts(
            self._attend,
            (
                self.queries(x_BSD, rotation),
                *self.latents(x_BSD, rotation),
                self.wkv_b[...].astype(x_BSD.dtype),
                causal_attention.query_ids(segment_ids_BS),
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

    def output(self, out_BSHU: Float[Array, "B S H U"]) -> Float[Array, "B S D"]:
        wo_HUD = self.wo[...].astype(out_BSHU.dtype)
        return precision.einsum(self.execution)("BSHU,HUD->BSD", out_BSHU, wo_HUD)

    def _attend(self, q_BSHK, c_BSC, k_rope_BSR, wkv_b_CHM, query_ids_BS, key_ids_BS):
        """One device's queries and heads, on the keys of the whole sequence.

        Latents, which are small, travel over the context axis, and each device makes its heads'
        keys and values from them.
        """
        wkv_b_CHM = local.gather_weight(wkv_b_CHM, 0, like=q_BSHK)
        c_BTC, _ = local.gather_past(c_BSC, "context", 1)
        c_BTC = local.vary(c_BTC, "tensor")  # gradients of both its products are summed at once
        k_rope_BTR, _ = local.gather_past(k_rope_BSR, "context", 1)
        k_BTHK, v_BTHU = self.keys_and_values(c_BTC, k_rope_BTR, wkv_b_CHM)
        return causal_attention.attend(
            self.cfg, self.execution, q_BSHK, k_BTHK, v_BTHU, query_ids_BS, key_ids_BS
        )

    def keys_and_values(
        self,
        c_BSC: Float[Array, "B S C"],
        k_rope_BSR: Float[Array, "B S R"],
        wkv_b_CHM: Float[Array, "C H M"],
    ) -> tuple[Float[Array, "B S H K"], Float[Array, "B S H U"]]:
        nope = self.cfg.qk_nope_head_dim
        einsum = precision.einsum(self.execution)
        k_nope_BSHN, v_BSHU = xla_hints.separate_products(einsum, c_BSC, wkv_b_CHM, nope)
        shape_BSHR = (*k_nope_BSHN.shape[:3], self.cfg.qk_rope_head_dim)
        k_rope_BSHR = jnp.broadcast_to(k_rope_BSR[:, :, None], shape_BSHR)
        return jnp.concatenate([k_nope_BSHN, k_rope_BSHR], axis=-1), v_BSHU


def specs(cfg: ModelConfig, split: str, first_layer: int) -> dict[str, param_specs.ParamSpec]:
    """See `describe.describe`."""
    nope, rotary, value = cfg.qk_nope_head_dim, cfg.qk_rope_head_dim, cfg.v_head_dim
    heads = param_specs.of_heads(split)
    parts = {} if split == "none" else {"split_axis": 3, "split_sizes": (nope, value)}
    plain: dict[str, Any] = {"rows": (1,), "cols": (2,), "batch": (0,)}

    def clip(*segments: tuple[int, float]) -> QKClipSpec:
        return QKClipSpec(layer_axis=0, head_axis=2, segments=segments, first_layer=first_layer)

    # The rope key is shared by all heads, so the query's rope part takes all of gamma.
    query_clip, kv_clip = clip((nope, 0.5), (rotary, 1.0)), clip((nope, 0.5), (value, 0.0))
    matrix = param_specs.matrix
    found = {
        "wkv_a": matrix("embed", "latent", **plain),
        **param_specs.norms(cfg, "kv_norm"),
        "wkv_b": matrix("kv_lora", "heads", "head_dim", qk_clip=kv_clip, **heads, **parts),
        "wo": param_specs.output("heads", "head_dim", "embed"),
    }
    if cfg.q_lora_rank is None:
        return found | {"wq": matrix("embed", "heads", "head_dim", qk_clip=query_clip, **heads)}
    return found | {
        "wq_a": matrix("embed", "latent", **plain),
        **param_specs.norms(cfg, "q_norm"),
        "wq_b": matrix("q_lora", "heads", "head_dim", qk_clip=query_clip, **heads),
    }


def moved(cfg: ModelConfig) -> causal_attention.Moved:
    latents = kv_lora_rank(cfg) + cfg.qk_rope_head_dim
    summed = latents + (cfg.q_lora_rank or cfg.hidden_size)
    return causal_attention.Moved(latents, False, summed)


def qk_factors(
    cfg: ModelConfig, attention: Any
) -> tuple[Float[Array, "L _ H N"], Float[Array, "L C H N"]]:
    """Matrices A and B of every layer and head: logits are a A B^T b without their rotary part.

    a is the hidden state or its latent, b the latent of keys and values.
    """
    wq = attention["wq"] if cfg.q_lora_rank is None else attention["wq_b"]
    nope = cfg.qk_nope_head_dim
    return wq[..., :nope], attention["wkv_b"][..., :nope]
