"""Pieces every block shares: initialisers, RMSNorm and the SwiGLU MLP.

    rms_norm(x) = x / sqrt(mean(x^2) + eps) * g          g = gamma, or 1 + gamma if zero-centred
    mlp(x)      = swiglu(x W_gate, x W_up) W_down         swiglu(g, u) = silu(g) u

Every matrix, the embedding and the head start as normal(0, init_std): not truncated and with no
extra scale on the residual outputs, which is how Hugging Face initialises this family.

Letters: B batch, S sequence, D hidden, I width of the MLP, G gate or up (2).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import precision, xla_hints
from pallas_kernels.moe_mlp.activation import swiglu


def normal(rngs: nnx.Rngs, cfg: ModelConfig, *shape: int) -> nnx.Param:
    return nnx.Param(cfg.init_std * jax.random.normal(rngs.params(), shape, jnp.float32))


def norm_gamma(cfg: ModelConfig, size: int) -> nnx.Param | None:
    """The parameter of an RMSNorm over `size` entries; None where it has none."""
    if cfg.norm_gain == "none":
        return None
    count = 1 if cfg.norm_gain == "scalar" else size
    return nnx.Param(jnp.full((count,), 0.0 if cfg.zero_centered_gamma else 1.0, jnp.float32))


def compute_dtype(execution: ExecutionConfig) -> jnp.dtype:
    return jnp.dtype(execution.compute_dtype)


def rms_norm(
    x: Float[Array, "*rows D"], gamma: Float[Array, "G"] | None, eps: float, *, zero_centered: bool
) -> Float[Array, "*rows D"]:
    """Normalises and scales in float32; the result has the dtype of `x`.

    `gamma` has D numbers, or one for all of them; None scales by 1.
    """
    wide = x.astype(jnp.float32)
    inverse_rms = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    if gamma is None:
        return (wide * inverse_rms).astype(x.dtype)
    gain = gamma.astype(jnp.float32) + (1.0 if zero_centered else 0.0)
    return (wide * inverse_rms * gain).astype(x.dtype)


def norm(
    cfg: ModelConfig,
    x: Float[Array, "*rows D"],
    gamma: nnx.Param | Array | None,
    eps: float | None = None,
) -> Float[Array, "*rows D"]:
    """The RMSNorm of a model whose parameter is `gamma`; of the stream unless given an `eps`."""
    value = None if gamma is None else gamma[...]
    eps = cfg.rms_norm_eps if eps is None else eps
    return rms_norm(x, value, eps, zero_centered=cfg.zero_centered_gamma)


class SwiGLU(nnx.Module):
    """The dense layers' MLP, and the shared experts as one MLP of their summed width."""

    def __init__(self, cfg: ModelConfig, execution: ExecutionConfig, width: int, *, rngs: nnx.Rngs):
        self.clamp, self.execution = cfg.swiglu_clamp, execution
        self.w_gate_up = normal(rngs, cfg, 2, width, cfg.hidden_size)
        self.w_down = normal(rngs, cfg, width, cfg.hidden_size)

    def __call__(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        w_down_ID = self.w_down[...].astype(x_BSD.dtype)
        return precision.einsum(self.execution)("BSI,ID->BSD", self.activated(x_BSD), w_down_ID)

    def activated(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S I"]:
        """What W_down reads."""
        w_GID = self.w_gate_up[...].astype(x_BSD.dtype)
        gate_BSI, up_BSI = xla_hints.joint_product(precision.einsum(self.execution), x_BSD, w_GID)
        return swiglu(gate_BSI, up_BSI, self.clamp)
