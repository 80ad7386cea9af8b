"""The shape of an image encoder and of the projector between it and a decoder."""

from dataclasses import dataclass
from typing import Literal

from kanana_jax.config import fields
from kanana_jax.config.fields import ConfigError
from kanana_jax.config.ranges import Count, Epsilon, Width


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A vision transformer over patches of any grid, like MoonViT (arXiv:2504.07491, sec. 2.1).

    Learned positions of a square grid are interpolated to an image's own grid, and heads rotate by
    rows and columns. The projector joins `merge_size` x `merge_size` patches into one position of
    the decoder: by an MLP, or by a C-Abstractor (arXiv:2312.06742), whose convolutions see
    neighbouring patches first.
    """

    patch_size: Width = 14  # pixels of a side
    num_channels: Width = 3  # 3: colours, 1: grey
    hidden_size: Width
    num_layers: Count
    num_heads: Width
    intermediate_size: Width
    position_grid: Width = 64  # patches of a side of the learned grid
    merge_size: Width = 2
    projector: Literal["mlp", "c_abstractor"] = "mlp"
    abstractor_depth: Count = 2  # blocks before the merge; c_abstractor only
    layer_norm_eps: Epsilon = 1e-5

    def __post_init__(self):
        fields.check(self, "model.vision")
        if self.hidden_size % (4 * self.num_heads):
            raise ConfigError(
                "model.vision.hidden_size must be a multiple of 4 x num_heads, for each head turns "
                f"pairs by rows and by columns; got {self.hidden_size} and {self.num_heads} heads"
            )
        if self.num_channels not in (1, 3):
            raise ConfigError(f"model.vision.num_channels must be 1 or 3, got {self.num_channels}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_values(self) -> int:
        """Numbers of a patch."""
        return self.num_channels * self.patch_size**2
