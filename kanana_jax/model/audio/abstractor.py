"""From states of the encoder to positions of the decoder: a C-Abstractor in one dimension.

    x <- x + W_2 silu(conv3(silu(W_1 norm(x))))        L times, the convolution channel by channel
    y_n = W_4 gelu(W_3 concat(norm(x_(g n)), ..., norm(x_(g n + g - 1))))

(After Honeybee, arXiv:2312.06742, without its gates and its pooling by parts of a frame.)

Letters: B sounds, S states, N positions, g states of a position, D width, W width of the decoder.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from kanana_jax.config import AudioConfig, ModelConfig
from kanana_jax.model import layers
from kanana_jax.model.biased import LayerNorm, Linear

_TAPS = 3


class Convolutions(nnx.Module):
    """A residual block: one state, its neighbours, one state again."""

    def __init__(self, cfg: ModelConfig, shape: AudioConfig, *, rngs: nnx.Rngs):
        width = shape.hidden_size
        self.norm = LayerNorm(width, shape.layer_norm_eps)
        self.first = Linear(cfg, width, width, rngs=rngs)
        self.around = layers.normal(rngs, cfg, _TAPS, width)
        self.last = Linear(cfg, width, width, rngs=rngs)

    def __call__(
        self, x_BSD: Float[Array, "B S D"], is_state_BS: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        h_BSD = jax.nn.silu(self.first(self.norm(x_BSD)))
        padded = jnp.pad(jnp.where(is_state_BS[..., None], h_BSD, 0), ((0, 0), (1, 1), (0, 0)))
        around_TD = self.around[...].astype(x_BSD.dtype)
        num_states = x_BSD.shape[1]
        seen_BSD = sum(padded[:, t : t + num_states] * around_TD[t] for t in range(_TAPS))
        return x_BSD + self.last(jax.nn.silu(seen_BSD))


class Abstractor(nnx.Module):
    """Positions of the decoder's width; the last one, if not full, is filled up with zeros."""

    def __init__(self, cfg: ModelConfig, shape: AudioConfig, *, rngs: nnx.Rngs):
        self.merge_size = shape.merge_size
        width = shape.hidden_size * shape.merge_size
        self.layers = jax.vmap(lambda key: Convolutions(cfg, shape, rngs=nnx.Rngs(key)))(
            jax.random.split(rngs.params(), shape.abstractor_depth)
        )
        self.norm = LayerNorm(shape.hidden_size, shape.layer_norm_eps)
        self.inner = Linear(cfg, width, width, rngs=rngs)
        self.outer = Linear(cfg, width, cfg.hidden_size, rngs=rngs)

    def __call__(
        self, x_BSD: Float[Array, "B S D"], is_state_BS: Bool[Array, "B S"]
    ) -> Float[Array, "B N W"]:
        x_BSD, _ = jax.lax.scan(
            lambda x_BSD, block: (block(x_BSD, is_state_BS), None), x_BSD, self.layers
        )
        x_BSD = jnp.where(is_state_BS[..., None], self.norm(x_BSD), 0)
        num_sounds, num_states, width = x_BSD.shape
        shape = num_sounds, num_states // self.merge_size, self.merge_size * width
        return self.outer(jax.nn.gelu(self.inner(x_BSD.reshape(shape)), approximate=False))
