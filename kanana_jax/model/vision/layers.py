"""Pieces of the encoder: attention, MLP and block of a vision transformer.

    x <- x + attention(norm(x))        x <- x + W_down gelu(W_up norm(x))

Every patch sees those of its own image. Norms and products have biases, as in MoonViT.

Letters: B rows of a batch, P patches, D width, H heads, K width of a head, I width of the MLP.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

import pallas_kernels
from kanana_jax.config import ExecutionConfig, ModelConfig, VisionConfig
from kanana_jax.model import causal_attention, layers, rope
from kanana_jax.model.biased import LayerNorm, Linear, zeros
from kanana_jax.parallel import local
from pallas_kernels import maxima

_PATCHES = ("batch", "whole")


class Attention(nnx.Module):
    """Full attention within each image, heads turned by rows and columns."""

    def __init__(
        self,
        cfg: ModelConfig,
        shape: VisionConfig,
        execution: ExecutionConfig,
        *,
        rngs: nnx.Rngs,
    ):
        self.execution = execution
        width, heads, size = shape.hidden_size, shape.num_heads, shape.head_dim
        self.wq, self.wk, self.wv = (layers.normal(rngs, cfg, width, heads, size) for _ in range(3))
        self.bq, self.bk, self.bv = (zeros(heads, size) for _ in range(3))
        self.wo, self.bo = layers.normal(rngs, cfg, heads, size, width), zeros(width)

    def __call__(
        self, x_BPD: Float[Array, "B P D"], by: rope.Rotation, image_ids_BP: Int[Array, "B P"]
    ) -> tuple[Float[Array, "B P D"], Float[Array, "H"]]:
        """The output and each head's largest logit."""
        q_BPHK = rope.rotate_halves(self._projected(x_BPD, self.wq, self.bq), by)
        k_BPHK = rope.rotate_halves(self._projected(x_BPD, self.wk, self.bk), by)
        v_BPHK = self._projected(x_BPD, self.wv, self.bv)
        heads = (*_PATCHES, "heads", "head_dim")
        out_BPHK, max_logits_BH = local.on_parts(
            self._attend,
            (q_BPHK, k_BPHK, v_BPHK, causal_attention.query_ids(image_ids_BP), image_ids_BP),
            (heads, heads, heads, _PATCHES, _PATCHES),
            [heads, ("batch", "heads")],
        )
        wo_HKD = self.wo[...].astype(x_BPD.dtype)
        out_BPD = jnp.einsum("BPHK,HKD->BPD", out_BPHK, wo_HKD) + self.bo[...].astype(x_BPD.dtype)
        return out_BPD, maxima.keep_nan(max_logits_BH, axis=0)

    def _projected(self, x_BPD: Array, w_DHK: nnx.Param, b_HK: nnx.Param) -> Array:
        x_BPHK = jnp.einsum("BPD,DHK->BPHK", x_BPD, w_DHK[...].astype(x_BPD.dtype))
        return x_BPHK + b_HK[...].astype(x_BPD.dtype)

    def _attend(self, q_BPHK, k_BPHK, v_BPHK, query_ids_BP, key_ids_BP):
        return pallas_kernels.flash_attention(
            q_BPHK,
            k_BPHK,
            v_BPHK,
            segment_ids=(query_ids_BP, key_ids_BP),
            causal=False,
            implementation=self.execution.attention_implementation,
            deterministic=self.execution.deterministic,
        )


class Mlp(nnx.Module):
    """W_down gelu(W_up x), each with a bias; the gelu by its tanh formula."""

    def __init__(self, cfg: ModelConfig, width: int, inner: int, *, rngs: nnx.Rngs):
        self.up = Linear(cfg, width, inner, rngs=rngs)
        self.down = Linear(cfg, inner, width, rngs=rngs)

    def __call__(self, x_BPD: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        return self.down(jax.nn.gelu(self.up(x_BPD), approximate=True))


class Block(nnx.Module):
    """A layer of the encoder."""

    def __init__(
        self,
        cfg: ModelConfig,
        shape: VisionConfig,
        execution: ExecutionConfig,
        *,
        rngs: nnx.Rngs,
    ):
        self.attention_norm = LayerNorm(shape.hidden_size, shape.layer_norm_eps)
        self.attention = Attention(cfg, shape, execution, rngs=rngs)
        self.mlp_norm = LayerNorm(shape.hidden_size, shape.layer_norm_eps)
        self.mlp = Mlp(cfg, shape.hidden_size, shape.intermediate_size, rngs=rngs)

    def __call__(
        self, x_BPD: Float[Array, "B P D"], by: rope.Rotation, image_ids_BP: Int[Array, "B P"]
    ) -> tuple[Float[Array, "B P D"], Float[Array, "H"]]:
        attended_BPD, max_logits_H = self.attention(self.attention_norm(x_BPD), by, image_ids_BP)
        x_BPD = local.constrain(x_BPD + attended_BPD, (*_PATCHES, "whole"))
        x_BPD = x_BPD + self.mlp(self.mlp_norm(x_BPD))
        return local.constrain(x_BPD, (*_PATCHES, "whole")), max_logits_H
