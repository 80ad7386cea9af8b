"""From patches of the encoder to positions of the decoder, a square of patches to a position.

    mlp           concat(norm(x_1), ..., norm(x_n)) -> W_1 -> gelu -> W_2
    c_abstractor  x + learned position -> blocks -> the same MLP over squares

A block of the abstractor is a residual of convolutions: one patch, its 3 x 3 neighbours channel by
channel, one patch again, with SiLU between them (after Honeybee, arXiv:2312.06742, without its
gates). Neighbours are found by the places of patches, so a row may hold several images of any grid.

Letters: B rows of a batch, P patches, M squares, N patches of a square, D width of the encoder, W
width of the decoder, L blocks.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from kanana_jax.config import ModelConfig, VisionConfig
from kanana_jax.model import layers
from kanana_jax.model.biased import LayerNorm, Linear, zeros
from kanana_jax.model.vision import positions

_AROUND = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))


class Merge(nnx.Module):
    """The MLP over the patches of a square."""

    def __init__(self, cfg: ModelConfig, shape: VisionConfig, *, rngs: nnx.Rngs):
        self.num_patches = shape.merge_size**2
        width = shape.hidden_size * self.num_patches
        self.norm = LayerNorm(shape.hidden_size, shape.layer_norm_eps)
        self.inner = Linear(cfg, width, width, rngs=rngs)
        self.outer = Linear(cfg, width, cfg.hidden_size, rngs=rngs)

    def __call__(self, x_BPD: Float[Array, "B P D"]) -> Float[Array, "B M W"]:
        batch, _count, width = x_BPD.shape
        merged = self.norm(x_BPD).reshape(batch, -1, self.num_patches * width)
        return self.outer(jax.nn.gelu(self.inner(merged), approximate=False))


class Convolutions(nnx.Module):
    """A residual block of the abstractor."""

    def __init__(self, cfg: ModelConfig, shape: VisionConfig, *, rngs: nnx.Rngs):
        width = shape.hidden_size
        self.norm = LayerNorm(width, shape.layer_norm_eps)
        self.first = Linear(cfg, width, width, rngs=rngs)
        self.around = layers.normal(rngs, cfg, len(_AROUND), width)
        self.last = Linear(cfg, width, width, rngs=rngs)

    def __call__(
        self, x_BPD: Float[Array, "B P D"], near_BPT: Int[Array, "B P 9"]
    ) -> Float[Array, "B P D"]:
        h_BPD = jax.nn.silu(self.first(self.norm(x_BPD)))
        # A row of zeros at the end stands for what lies outside the image.
        padded_BPD = jnp.pad(h_BPD, ((0, 0), (0, 1), (0, 0)))
        around = self.around[...].astype(h_BPD.dtype)
        found = jnp.zeros_like(h_BPD)
        for tap in range(len(_AROUND)):
            of_tap = jnp.take_along_axis(padded_BPD, near_BPT[..., tap, None], axis=1)
            found = found + of_tap * around[tap]
        return x_BPD + self.last(jax.nn.silu(found))


class Abstractor(nnx.Module):
    """The C-Abstractor. All its blocks come before the merge, where they see single patches."""

    def __init__(self, cfg: ModelConfig, shape: VisionConfig, *, rngs: nnx.Rngs):
        self.merge_size = shape.merge_size
        self.positions = zeros(shape.position_grid, shape.position_grid, shape.hidden_size)
        self.layers = jax.vmap(lambda key: Convolutions(cfg, shape, rngs=nnx.Rngs(key)))(
            jax.random.split(rngs.params(), shape.abstractor_depth)
        )
        self.merge = Merge(cfg, shape, rngs=rngs)

    def __call__(
        self, x_BPD: Float[Array, "B P D"], places_BP4: Int[Array, "B P 4"]
    ) -> Float[Array, "B M W"]:
        near_BPT = neighbours(places_BP4, self.merge_size)
        x_BPD = x_BPD + positions.learned(self.positions[...], places_BP4).astype(x_BPD.dtype)
        x_BPD, _ = jax.lax.scan(lambda x, block: (block(x, near_BPT), None), x_BPD, self.layers)
        return self.merge(x_BPD)


def neighbours(places_BP4: Int[Array, "B P 4"], merge_size: int) -> Int[Array, "B P 9"]:
    """Indices of the 3 x 3 patches around each in its image; P for one outside it."""
    y_BP, x_BP, rows_BP, columns_BP = (places_BP4[..., i] for i in range(4))
    count = places_BP4.shape[1]
    start_BP = jnp.arange(count) - _offset(y_BP, x_BP, columns_BP, merge_size)

    def one(dy: int, dx: int) -> Array:
        there_y_BP, there_x_BP = y_BP + dy, x_BP + dx
        is_inside_BP = (there_y_BP >= 0) & (there_y_BP < rows_BP)
        is_inside_BP &= (there_x_BP >= 0) & (there_x_BP < columns_BP)
        index_BP = start_BP + _offset(there_y_BP, there_x_BP, columns_BP, merge_size)
        return jnp.where(is_inside_BP, index_BP, count)

    return jnp.stack([one(dy, dx) for dy, dx in _AROUND], axis=-1)


def _offset(y_BP: Array, x_BP: Array, columns_BP: Array, merge_size: int) -> Array:
    """The offset of a patch from the first of its image; see `Images`."""
    square_BP = (y_BP // merge_size) * (columns_BP // merge_size) + x_BP // merge_size
    return (square_BP * merge_size + y_BP % merge_size) * merge_size + x_BP % merge_size
