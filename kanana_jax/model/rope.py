"""Rotary positions, YaRN (arXiv:2309.00071, sec. 3.2) and the extension of Llama 3.1.

    pair i of a head's numbers at position p turns by the angle p f_i,      f_i = theta^(-2i / R)
    both:  f_i <- f_i ((1 - r_i) + r_i / factor),    r_i = 0 for fast turns, 1 for slow ones
    softmax scale = qk_head_dim^(-1/2) mscale(factor, mscale_all_dim)^2

YaRN's r is a ramp over the index i, Llama's over the turns in the original context.

DeepSeek pairs neighbours, but the result holds all first halves and then all second ones, as in
Hugging Face's DeepSeek-V3 (`rope_interleave`). Queries and keys are permuted alike, so no score
changes, and a cache of rotated keys has the same layout there and here. Llama and Qwen pair the
two halves.

Letters: B batch, S sequence, R rotary size of a head.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kanana_jax.config import Llama3RopeConfig, ModelConfig, YarnConfig


class Rotation(NamedTuple):
    """Cosine and sine of every position's angles; made once and used by all layers."""

    cos_BSr: Float[Array, "B S r"]  # r = R / 2
    sin_BSr: Float[Array, "B S r"]


def frequencies(cfg: ModelConfig) -> np.ndarray:
    """Radians per position of each pair, fast ones first, (R / 2,) float64."""
    size = cfg.qk_rope_head_dim
    plain_r = cfg.rope_theta ** (-np.arange(0, size, 2) / size)
    if cfg.yarn is not None:
        factor, slowness_r = cfg.yarn.factor, _slowness(cfg.yarn, size, cfg.rope_theta)
    elif cfg.llama3_rope is not None:
        factor, slowness_r = cfg.llama3_rope.factor, _llama3_slowness(cfg.llama3_rope, plain_r)
    else:
        return plain_r
    return plain_r * (1.0 - slowness_r) + plain_r / factor * slowness_r


def _slowness(yarn: YarnConfig, size: int, theta: float) -> np.ndarray:
    """0 for pairs with more than beta_fast turns in the original context, 1 below beta_slow."""

    def pair_turning(times: float) -> float:
        wavelength = yarn.original_max_positions / (times * 2.0 * math.pi)
        return size * math.log(wavelength) / (2.0 * math.log(theta))

    low = max(math.floor(pair_turning(yarn.beta_fast)), 0)
    high = min(math.ceil(pair_turning(yarn.beta_slow)), size - 1)
    # Equal betas may give an empty ramp; 0.001 is what the published code uses.
    return np.clip((np.arange(size // 2) - low) / max(high - low, 0.001), 0.0, 1.0)


def _llama3_slowness(llama3: Llama3RopeConfig, frequency_r: np.ndarray) -> np.ndarray:
    """0 for pairs with more than high_freq_factor turns in the original context, 1 below low."""
    turns_r = llama3.original_max_positions * frequency_r / (2.0 * math.pi)
    low, high = llama3.low_freq_factor, llama3.high_freq_factor
    return np.clip((high - turns_r) / (high - low), 0.0, 1.0)


def mscale(factor: float, weight: float) -> float:
    """YaRN's attention factor: 0.1 weight ln(factor) + 1, and 1 where nothing is extended."""
    return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0


def softmax_scale(cfg: ModelConfig) -> float:
    scale = cfg.qk_head_dim**-0.5
    if cfg.yarn is not None and cfg.yarn.mscale_all_dim:
        scale *= mscale(cfg.yarn.factor, cfg.yarn.mscale_all_dim) ** 2
    return scale


def _amplitude(yarn: YarnConfig | None) -> float:
    """Factor on cosine and sine: what YaRN's mscale asks for beyond `softmax_scale`."""
    if yarn is None:
        return 1.0
    if yarn.mscale and yarn.mscale_all_dim:
        return mscale(yarn.factor, yarn.mscale) / mscale(yarn.factor, yarn.mscale_all_dim)
    return mscale(yarn.factor, 1.0)


def rotation(cfg: ModelConfig, positions_BS: Int[Array, "B S"]) -> Rotation:
    # float32 angles: bfloat16 has no distinct positions past 256.
    frequency_r = jnp.asarray(frequencies(cfg), jnp.float32)
    angle_BSr = positions_BS[..., None].astype(jnp.float32) * frequency_r
    amplitude = _amplitude(cfg.yarn)
    return Rotation(jnp.cos(angle_BSr) * amplitude, jnp.sin(angle_BSr) * amplitude)


def rotate(x_BSHR: Float[Array, "B S H R"], by: Rotation) -> Float[Array, "B S H R"]:
    """Turns neighbours as pairs, in float32; the result has the dtype of `x_BSHR`."""
    wide = x_BSHR.astype(jnp.float32)
    return _turned(wide[..., 0::2], wide[..., 1::2], by).astype(x_BSHR.dtype)


def rotate_halves(x_BSHR: Float[Array, "B S H R"], by: Rotation) -> Float[Array, "B S H R"]:
    """The same with pairs (i, i + R / 2)."""
    first, second = jnp.split(x_BSHR.astype(jnp.float32), 2, axis=-1)
    return _turned(first, second, by).astype(x_BSHR.dtype)


def _turned(first: Array, second: Array, by: Rotation) -> Array:
    cos, sin = by.cos_BSr[:, :, None, :], by.sin_BSr[:, :, None, :]
    return jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
