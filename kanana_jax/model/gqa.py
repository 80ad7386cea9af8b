"""Grouped-query attention (arXiv:2305.13245): several query heads read one key and value head.

    q_h, k_g = rope(x W_q_h), rope(x W_k_g)     v_g = x W_v_g     g = h // (H / G)
    out      = concat_h softmax(scale q_h k_g^T) v_g W_o

With `qk_norm` (Qwen 3) each head of q and k goes through an RMSNorm before its rotation. All
heads of each share one gamma, which is never zero-centred, so that QK-Clip can scale it.

Letters: B batch, S sequence, T cache length, D hidden, H query heads, G key and value heads,
N = H / G query heads of a key head, K width of a head, L layers.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import causal_attention, layers, param_specs, precision, rope, xla_hints
from kanana_jax.optim.specs import QKClipSpec
from kanana_jax.parallel import local


class Projections(nnx.Module):
    """Queries, keys and values of each head, and the way back from them."""

    def __init__(self, cfg: ModelConfig, execution: ExecutionConfig, *, rngs: nnx.Rngs):
        self.cfg, self.execution = cfg, execution
        hidden, heads, size = cfg.hidden_size, cfg.num_heads, cfg.qk_head_dim
        self.wq = layers.normal(rngs, cfg, hidden, heads, size)
        self.wk = layers.normal(rngs, cfg, hidden, num_kv_heads(cfg), size)
        self.wv = layers.normal(rngs, cfg, hidden, num_kv_heads(cfg), size)
        self.wo = layers.normal(rngs, cfg, heads, size, hidden)
        if cfg.qk_norm:
            self.q_head_norm = nnx.Param(jnp.ones((size,), jnp.float32))
            self.k_head_norm = nnx.Param(jnp.ones((size,), jnp.float32))

    def queries(
        self, x_BSD: Float[Array, "B S D"], rotation: rope.Rotation
    ) -> Float[Array, "B S H K"]:
        q_BSHK = self._project(x_BSD, self.wq, "heads")
        if self.cfg.qk_norm:
            q_BSHK = self._head_norm(q_BSHK, self.q_head_norm)
        return rope.rotate_halves(q_BSHK, rotation)

    def keys(
        self, x_BSD: Float[Array, "B S D"], rotation: rope.Rotation
    ) -> Float[Array, "B S G K"]:
        k_BSGK = self._project(x_BSD, self.wk, "kv_heads")
        if self.cfg.qk_norm:
            k_BSGK = self._head_norm(k_BSGK, self.k_head_norm)
        return rope.rotate_halves(k_BSGK, rotation)

    def values(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S G K"]:
        return self._project(x_BSD, self.wv, "kv_heads")

    def output(self, out_BSHK: Float[Array, "B S H K"]) -> Float[Array, "B S D"]:
        wo_HKD = self.wo[...].astype(out_BSHK.dtype)
        return precision.einsum(self.execution)("BSHK,HKD->BSD", out_BSHK, wo_HKD)

    def _project(self, x_BSD: Array, w_DHK: nnx.Param, heads: str) -> Array:
        einsum = precision.einsum(self.execution)
        x_BSHK = einsum("BSD,DHK->BSHK", x_BSD, w_DHK[...].astype(x_BSD.dtype))
        return local.constrain(x_BSHK, ("batch", "sequence", heads, "head_dim"))

    def _head_norm(self, x: Array, gamma: nnx.Param) -> Array:
        return layers.rms_norm(x, gamma[...], self.cfg.rms_norm_eps, zero_centered=False)


def num_kv_heads(cfg: ModelConfig) -> int:
    assert cfg.num_kv_heads is not None  # ModelConfig has checked it
    return cfg.num_kv_heads


class GroupedQueryAttention(Projections):
    """Attention of whole sequences."""

    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        rotation: rope.Rotation,
        segment_ids_BS: Int[Array, "B S"],
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B H"]]:
        """Returns the output and each head's largest logit; padding (segment 0) has no part in it.

        A sequence of nothing but padding has -inf as its largest logit.
        """
        out_BSHK, max_logits_BH = self.by_head(x_BSD, rotation, segment_ids_BS)
        return self.output(out_BSHK), max_logits_BH

    def by_head(
        self,
        x_BSD: Float[Array, "B S D"],
        rotation: rope.Rotation,
        segment_ids_BS: Int[Array, "B S"],
    ) -> tuple[Float[Array, "B S H K"], Float[Array, "B H"]]:
        """The output of each head, and its largest logit."""
        tokens = ("batch", "sequence")
        of_queries, of_keys = (*tokens, "heads", "head_dim"), (*tokens, "kv_heads", "head_dim")
        return local.on_parts(
            self._attend,
            (
                self.queries(x_BSD, rotation),
                self.keys(x_BSD, rotation),
                self.values(x_BSD),
                causal_attention.query_ids(segment_ids_BS),
                segment_ids_BS,
            ),
            (of_queries, of_keys, of_keys, tokens, tokens),
            [of_queries, ("batch", "heads")],
        )

    def _attend(self, q_BSHK, k_BSGK, v_BSGK, query_ids_BS, key_ids_BS):
        """One device's queries and heads; over the context axis keys and values travel."""
        k_BTGK, _ = local.gather_past(k_BSGK, "context", 1)
        v_BTGK, _ = local.gather_past(v_BSGK, "context", 1)
        return causal_attention.attend(
            self.cfg, self.execution, q_BSHK, k_BTGK, v_BTGK, query_ids_BS, key_ids_BS
        )


class Cache(NamedTuple):
    """The rotated keys and the values of one layer."""

    k: Float[Array, "rows T G K"]
    v: Float[Array, "rows T G K"]


def init_cache(cfg: ModelConfig, num_rows: int, length: int, dtype: jnp.dtype) -> Cache:
    shape = (num_rows, length, num_kv_heads(cfg), cfg.qk_head_dim)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


class CachedAttention(Projections):
    """Attention over cached keys and values."""

    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        rotation: rope.Rotation,
        positions_BS: Int[Array, "B S"],
        cache: Cache,
        row_B: Int[Array, "B"] | None,
    ) -> tuple[Float[Array, "B S D"], Cache]:
        """Output and cache, as `causal_attention.store` writes and reads it."""
        new = Cache(
            xla_hints.pad_single_row(lambda x: self.keys(x, rotation), x_BSD),
            xla_hints.pad_single_row(self.values, x_BSD),
        )
        cache, cached = causal_attention.store(cache, new, positions_BS, row_B)
        q_BSHK = xla_hints.pad_single_row(lambda x: self.queries(x, rotation), x_BSD)
        batch, num_new, heads, size = q_BSHK.shape
        q_BSGNK = q_BSHK.reshape(batch, num_new, num_kv_heads(self.cfg), -1, size)
        score_BGNST = jnp.einsum(
            "BSGNK,BTGK->BGNST", q_BSGNK, cached.k, preferred_element_type=jnp.float32
        )
        score_BHST = score_BGNST.reshape(batch, heads, num_new, -1)
        weight_BHST = causal_attention.cached_weights(
            self.cfg, score_BHST, positions_BS, x_BSD.dtype
        )
        weight_BGNST = weight_BHST.reshape(score_BGNST.shape)
        out_BSGNK = jnp.einsum("BGNST,BTGK->BSGNK", weight_BGNST, cached.v)
        return xla_hints.pad_single_row(self.output, out_BSGNK.reshape(q_BSHK.shape)), cache


def specs(cfg: ModelConfig, split: str, first_layer: int) -> dict[str, param_specs.ParamSpec]:
    """See `describe.describe`. Logits shrink by gamma where no other head reads what is scaled.

    A key head that several query heads read stays, and the query takes all of gamma. An RMSNorm
    would undo any scale of wq: there the gammas of the norms shrink by the layer's smallest.
    """
    size, kv_heads = cfg.qk_head_dim, num_kv_heads(cfg)
    is_shared = kv_heads < cfg.num_heads

    def clip(exponent: float, **layout: Any) -> QKClipSpec:
        segments = ((size, exponent),)
        return QKClipSpec(layer_axis=0, segments=segments, first_layer=first_layer, **layout)

    query_clip = None if cfg.qk_norm else clip(1.0 if is_shared else 0.5, head_axis=2)
    key_clip = None if cfg.qk_norm or is_shared else clip(0.5, head_axis=2)
    heads = param_specs.of_heads(split)
    found = {
        "wq": param_specs.matrix("embed", "heads", "head_dim", qk_clip=query_clip, **heads),
        "wk": param_specs.matrix("embed", "kv_heads", "head_dim", qk_clip=key_clip, **heads),
        "wv": param_specs.matrix("embed", "kv_heads", "head_dim", **heads),
        "wo": param_specs.output("heads", "head_dim", "embed"),
    }
    if cfg.qk_norm:
        # The one gamma of a layer seen as that of one head, which every query head reads.
        everyone = (tuple(range(cfg.num_heads)),)
        half = clip(0.5, head_axis=1, heads=everyone, view=(-1, 1, size))
        found |= {name: param_specs.norm(qk_clip=half) for name in ("q_head_norm", "k_head_norm")}
    return found


def moved(cfg: ModelConfig) -> causal_attention.Moved:
    """Keys and values; the hidden state is read by three products."""
    keys_and_values = 2 * num_kv_heads(cfg) * cfg.qk_head_dim
    return causal_attention.Moved(keys_and_values, True, 3 * cfg.hidden_size)


def qk_factors(
    cfg: ModelConfig, attention: Any
) -> tuple[Float[Array, "L _ H K"], Float[Array, "L _ H K"]]:
    """Matrices A and B of every layer and head with which logits are a A B^T b.

    a and b are the hidden states; with `qk_norm` the normalised heads, and A and B diagonal.
    """
    if not cfg.qk_norm:
        readers = cfg.num_heads // num_kv_heads(cfg)
        return attention["wq"], jnp.repeat(attention["wk"], readers, axis=2)
    one_KHK = jnp.broadcast_to(
        jnp.eye(cfg.qk_head_dim)[:, None], (cfg.qk_head_dim, cfg.num_heads, cfg.qk_head_dim)
    )
    q_LK, k_LK = attention["q_head_norm"], attention["k_head_norm"]
    return q_LK[:, None, None] * one_KHK, k_LK[:, None, None] * one_KHK
