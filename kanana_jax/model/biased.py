"""LayerNorm and a product with a bias, which encoders have and decoders of this family do not."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kanana_jax.config import ModelConfig
from kanana_jax.model import layers


def zeros(*shape: int) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape, jnp.float32))


class LayerNorm(nnx.Module):
    """Normalises in float32; the result has the dtype of x."""

    def __init__(self, size: int, eps: float):
        self.eps = eps
        self.gamma, self.beta = nnx.Param(jnp.ones((size,), jnp.float32)), zeros(size)

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        return (centred * scale * self.gamma[...] + self.beta[...]).astype(x.dtype)


class Linear(nnx.Module):
    """x W + b."""

    def __init__(self, cfg: ModelConfig, rows: int, cols: int, *, rngs: nnx.Rngs):
        self.w, self.b = layers.normal(rngs, cfg, rows, cols), zeros(cols)

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows I"]:
        return x @ self.w[...].astype(x.dtype) + self.b[...].astype(x.dtype)
