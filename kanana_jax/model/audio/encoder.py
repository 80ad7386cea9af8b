"""Whisper's encoder over log-mel frames (arXiv:2212.04356, sec. 2.2), then the abstractor.

    frames -> gelu(conv 3) -> gelu(conv 3, stride 2) -> + sinusoids -> blocks -> norm -> abstractor
    x <- x + attention(norm(x))        x <- x + W_down gelu(W_up norm(x))

Every state of a sound sees all of its states. They are the same whatever follows the sound in its
row: frames behind its end are zeros to the convolutions, and no state sees a state behind the end.

Letters: B sounds, F frames, S states (F / 2), N positions, M bands, D width, H heads, K width of a
head, W width of the decoder, L layers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

import pallas_kernels
from kanana_jax.batch import Sounds
from kanana_jax.config import AudioConfig, ExecutionConfig, ModelConfig
from kanana_jax.model import causal_attention, encoder_specs, layers
from kanana_jax.model.audio.abstractor import Abstractor
from kanana_jax.model.biased import LayerNorm, Linear, zeros
from kanana_jax.model.param_specs import ParamSpec
from kanana_jax.optim.specs import MatrixSpec
from kanana_jax.parallel import local
from pallas_kernels import maxima

_TAPS = 3
_LONGEST_WAVE = 10_000.0


class Encoded(NamedTuple):
    """What a decoder reads of sounds."""

    positions_BNW: Float[Array, "B N W"]
    num_positions_B: Int[Array, "B"]  # positions of the sound; padding follows them
    states_BSD: Float[Array, "B S D"]
    max_logits_LH: Float[Array, "L H"]


class Encoder(nnx.Module):
    """Encoder and abstractor. Float32 parameters; activations in `execution.compute_dtype`."""

    def __init__(self, cfg: ModelConfig, execution: ExecutionConfig, *, rngs: nnx.Rngs):
        shape = cfg.audio
        assert shape is not None
        self.shape, self.execution = shape, execution
        width = shape.hidden_size
        self.conv1 = layers.normal(rngs, cfg, _TAPS, shape.num_bands, width)
        self.conv2 = layers.normal(rngs, cfg, _TAPS, width, width)
        self.conv1_bias, self.conv2_bias = zeros(width), zeros(width)
        self.layers = jax.vmap(lambda key: Block(cfg, shape, execution, rngs=nnx.Rngs(key)))(
            jax.random.split(rngs.params(), shape.num_layers)
        )
        self.final_norm = LayerNorm(width, shape.layer_norm_eps)
        self.abstractor = Abstractor(cfg, shape, rngs=rngs)

    def __call__(self, mel_BFM: Float[Array, "B F M"], num_frames_B: Int[Array, "B"]) -> Encoded:
        """`mel_BFM` as `speech.mel.log_mel` has it; F is a multiple of frames_per_position."""
        num_frames, merged = mel_BFM.shape[1], self.shape.frames_per_position
        if num_frames % merged:
            raise ValueError(
                f"frames must be a multiple of {merged}, got {num_frames}; pad them with zeros"
            )
        is_frame_BF = jnp.arange(num_frames) < num_frames_B[:, None]
        num_states_B = (num_frames_B + 1) // 2
        is_state_BS = jnp.arange(num_frames // 2) < num_states_B[:, None]
        x_BSD = self._convolved(mel_BFM.astype(layers.compute_dtype(self.execution)), is_frame_BF)
        x_BSD = x_BSD + sinusoids(x_BSD.shape[1], x_BSD.shape[2]).astype(x_BSD.dtype)

        def body(x_BSD, block):
            return block(x_BSD, is_state_BS)

        if self.execution.remat != "none":
            body = jax.checkpoint(body, prevent_cse=False)
        x_BSD, max_logits_LH = jax.lax.scan(body, x_BSD, self.layers)
        states_BSD = self.final_norm(x_BSD)
        num_positions_B = -(-num_states_B // self.shape.merge_size)
        positions_BNW = self.abstractor(states_BSD, is_state_BS)
        return Encoded(positions_BNW, num_positions_B, states_BSD, max_logits_LH)

    def slots(self, sounds: Sounds) -> tuple[Float[Array, "B M W"], Float[Array, "L H"]]:
        """What stands at each slot, and the largest logit of each head of the encoder."""
        frames_BNFM, num_frames_BN = (
            local.constrain(jnp.asarray(x), ("batch", "whole", "whole", "whole")[: jnp.ndim(x)])
            for x in sounds[:2]
        )
        num_rows, num_sounds = num_frames_BN.shape
        found = self(
            frames_BNFM.reshape(-1, *frames_BNFM.shape[2:]),
            jnp.minimum(num_frames_BN, frames_BNFM.shape[2]).reshape(-1),
        )
        positions_BMW = found.positions_BNW.reshape(
            num_rows, num_sounds * found.positions_BNW.shape[1], -1
        )
        return positions_BMW, found.max_logits_LH

    def _convolved(
        self, mel_BFM: Float[Array, "B F M"], is_frame_BF: Bool[Array, "B F"]
    ) -> Float[Array, "B S D"]:
        x_BFM = jnp.where(is_frame_BF[..., None], mel_BFM, 0)
        x_BFD = jax.nn.gelu(_conv(x_BFM, self.conv1, self.conv1_bias, 1), approximate=False)
        x_BFD = jnp.where(is_frame_BF[..., None], x_BFD, 0)
        return jax.nn.gelu(_conv(x_BFD, self.conv2, self.conv2_bias, 2), approximate=False)


def _conv(x_BFM: Array, taps_TMD: nnx.Param, bias_D: nnx.Param, stride: int) -> Array:
    """The convolution, with a frame of zeros at each end."""
    out_BSD = jax.lax.conv_general_dilated(
        x_BFM,
        taps_TMD[...].astype(x_BFM.dtype),
        window_strides=(stride,),
        padding=[(1, 1)],
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    return out_BSD + bias_D[...].astype(x_BFM.dtype)


def sinusoids(num_states: int, width: int) -> Float[np.ndarray, "S D"]:
    """Sines, then cosines, of waves from 2 pi states to 10000 times as long."""
    step = np.log(_LONGEST_WAVE) / (width // 2 - 1)
    angle_SD = np.arange(num_states)[:, None] * np.exp(-step * np.arange(width // 2))
    return np.concatenate([np.sin(angle_SD), np.cos(angle_SD)], axis=1).astype(np.float32)


class Block(nnx.Module):
    """A layer of the encoder. Keys have no bias, as in Whisper."""

    def __init__(
        self, cfg: ModelConfig, shape: AudioConfig, execution: ExecutionConfig, *, rngs: nnx.Rngs
    ):
        self.execution = execution
        width, heads, size = shape.hidden_size, shape.num_heads, shape.head_dim
        self.attention_norm = LayerNorm(width, shape.layer_norm_eps)
        self.wq, self.wk, self.wv = (layers.normal(rngs, cfg, width, heads, size) for _ in range(3))
        self.bq, self.bv = zeros(heads, size), zeros(heads, size)
        self.wo, self.bo = layers.normal(rngs, cfg, heads, size, width), zeros(width)
        self.mlp_norm = LayerNorm(width, shape.layer_norm_eps)
        self.up = Linear(cfg, width, shape.intermediate_size, rngs=rngs)
        self.down = Linear(cfg, shape.intermediate_size, width, rngs=rngs)

    def __call__(
        self, x_BSD: Float[Array, "B S D"], is_state_BS: Bool[Array, "B S"]
    ) -> tuple[Float[Array, "B S D"], Float[Array, "H"]]:
        """The states, and each head's largest logit."""
        attended_BSD, max_logits_H = self._attention(self.attention_norm(x_BSD), is_state_BS)
        x_BSD = x_BSD + attended_BSD
        inner = jax.nn.gelu(self.up(self.mlp_norm(x_BSD)), approximate=False)
        return x_BSD + self.down(inner), max_logits_H

    def _attention(self, x_BSD: Array, is_state_BS: Array) -> tuple[Array, Array]:
        def heads(w_DHK: nnx.Param) -> Array:
            return jnp.einsum("BSD,DHK->BSHK", x_BSD, w_DHK[...].astype(x_BSD.dtype))

        ids_BS = is_state_BS.astype(jnp.int32)
        out_BSHK, max_logits_BH = pallas_kernels.flash_attention(
            heads(self.wq) + self.bq[...].astype(x_BSD.dtype),
            heads(self.wk),
            heads(self.wv) + self.bv[...].astype(x_BSD.dtype),
            segment_ids=(causal_attention.query_ids(ids_BS), ids_BS),
            causal=False,
            implementation=self.execution.attention_implementation,
            deterministic=self.execution.deterministic,
        )
        out_BSD = jnp.einsum("BSHK,HKD->BSD", out_BSHK, self.wo[...].astype(x_BSD.dtype))
        return out_BSD + self.bo[...].astype(x_BSD.dtype), maxima.keep_nan(max_logits_BH, axis=0)


def specs(cfg: ModelConfig, split: str) -> dict[str, Any]:
    """See `describe.describe`. The encoder's heads are clipped as if its layers followed the
    decoder's last one, and those of an encoder of images."""
    shape = cfg.audio
    assert shape is not None
    first_layer = cfg.num_layers + (cfg.vision.num_layers if cfg.vision is not None else 0)
    taps = ParamSpec(
        role="matrix",
        logical_axes=("whole", "whole", "embed"),
        matrix=MatrixSpec(rows=(0, 1), cols=(2,)),
    )
    return {
        "conv1": taps,
        "conv1_bias": encoder_specs.vector("norm"),
        "conv2": taps,
        "conv2_bias": encoder_specs.vector("norm"),
        "layers": {
            "attention_norm": encoder_specs.norm("layers"),
            **encoder_specs.attention(shape.head_dim, first_layer, split),
            "mlp_norm": encoder_specs.norm("layers"),
            "up": encoder_specs.linear("embed", "mlp", "layers"),
            "down": encoder_specs.linear("mlp", "embed", "layers"),
        },
        "final_norm": encoder_specs.norm(),
        "abstractor": {
            "layers": encoder_specs.convolutions("whole"),
            "norm": encoder_specs.norm(),
            **encoder_specs.merge(),
        },
    }
