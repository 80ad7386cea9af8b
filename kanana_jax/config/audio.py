"""The shape of an encoder of sound and of the abstractor between it and a decoder."""

from dataclasses import dataclass
from typing import Annotated

from kanana_jax.config import fields
from kanana_jax.config.fields import ConfigError
from kanana_jax.config.ranges import Count, Epsilon, Range, Width

_STATES_PER_SECOND = 50


@dataclass(frozen=True, kw_only=True)
class AudioConfig:
    """Whisper's encoder (arXiv:2212.04356, sec. 2.2), and a 1-D C-Abstractor behind it.

    The encoder has 50 states a second. The abstractor's convolutions see neighbouring states, and
    `merge_size` of them become one position of the decoder.
    """

    num_bands: Width = 80
    hidden_size: Width
    num_layers: Count
    num_heads: Width
    intermediate_size: Width
    merge_size: Annotated[int, Range(5, 50, "from 10 positions a second to 1")] = 5
    abstractor_depth: Count = 2  # blocks before the merge
    layer_norm_eps: Epsilon = 1e-5

    def __post_init__(self):
        fields.check(self, "model.audio")
        if self.hidden_size % 2 or self.hidden_size % self.num_heads:
            raise ConfigError(
                "model.audio.hidden_size must be even and a multiple of num_heads = "
                f"{self.num_heads}, got {self.hidden_size}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def frames_per_position(self) -> int:
        """The encoder joins two frames into a state, and the abstractor `merge_size` states."""
        return 2 * self.merge_size

    def whole_positions(self, num_frames: int) -> int:
        """So many frames, rounded up to those of whole positions."""
        return -(-num_frames // self.frames_per_position) * self.frames_per_position

    @property
    def positions_per_second(self) -> float:
        """Positions of the decoder per second of sound."""
        return _STATES_PER_SECOND / self.merge_size
