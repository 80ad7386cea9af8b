"""A small VQ codec of log-mel frames: 25 tokens a second, from a codebook that is trained here.

    encoder   4 frames -> D:  h = W1 x;  z = W2 (h + gelu(conv3 h))        sees a token to each side
    token     argmin_c |z - e_c|^2                                         codebook e (C, D)
    decoder   4 frames = W (e + gelu(conv3 e)), causal                     sees two tokens back
    loss      |x - x'|^2 + |x - x'| + b |z - sg(e)|^2      straight-through (arXiv:1711.00937)

Each code follows the running mean of the vectors that chose it (ibid., app. A.1); a code that is
hardly ever chosen is set to a vector of the batch, so that codes stay in use.

Letters: B sounds, N tokens, F frames (4 N), M bands, D width, C codes, P = 4 frames of a token.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kanana_jax.speech import mel

Params = dict[str, Any]

FRAMES_PER_TOKEN = mel.FRAMES_PER_TOKEN
_TAPS = 3  # tokens that a convolution sees


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Sizes of a codec."""

    num_codes: int = 512
    width: int = 128
    commitment: float = 0.25  # b of the loss
    decay: float = 0.98  # of the running means
    least_use: float = 0.1  # of an even share, below which a code is set anew


class Codebook(NamedTuple):
    """What no gradient moves: codes, and the running means whose quotients they are."""

    code_CD: Float[Array, "C D"]
    count_C: Float[Array, "C"]
    sum_CD: Float[Array, "C D"]


class Codec(NamedTuple):
    """All that encoding and decoding need."""

    params: Params
    book: Codebook


def init(cfg: CodecConfig, key: Array) -> Codec:
    """Fresh weights in float32."""
    keys = jax.random.split(key, 6)
    wide, width = FRAMES_PER_TOKEN * mel.NUM_BANDS, cfg.width

    def matrix(place: int, *shape: int) -> Array:
        fan_in = shape[0] if len(shape) == 2 else shape[0] * shape[1]
        return jax.random.normal(keys[place], shape, jnp.float32) * fan_in**-0.5

    params = {
        "encoder_in": matrix(0, wide, width),
        "encoder_conv": matrix(1, _TAPS, width, width),
        "encoder_out": matrix(2, width, width),
        "decoder_conv": matrix(3, _TAPS, width, width),
        "decoder_out": matrix(4, width, wide),
        "decoder_bias": jnp.zeros((wide,), jnp.float32),
    }
    code_CD = jax.random.normal(keys[5], (cfg.num_codes, width), jnp.float32)
    return Codec(params, Codebook(code_CD, jnp.ones(cfg.num_codes), code_CD))


@jax.jit
def encode(codec: Codec, mel_BFM: Float[Array, "B F M"]) -> Int[Array, "B N"]:
    """The tokens of frames whose number is a multiple of 4."""
    return nearest(codec.book.code_CD, latents(codec.params, mel_BFM))


def latents(params: Params, mel_BFM: Float[Array, "B F M"]) -> Float[Array, "B N D"]:
    num_sounds, num_frames, bands = mel_BFM.shape
    shape = num_sounds, num_frames // FRAMES_PER_TOKEN, FRAMES_PER_TOKEN * bands
    x_BND = mel_BFM.reshape(shape) @ params["encoder_in"]
    padded = jnp.pad(x_BND, ((0, 0), (1, 1), (0, 0)))
    x_BND = x_BND + jax.nn.gelu(_conv(padded, params["encoder_conv"]))
    return x_BND @ params["encoder_out"]


def nearest(code_CD: Float[Array, "C D"], z_BND: Float[Array, "B N D"]) -> Int[Array, "B N"]:
    distance_BNC = (code_CD**2).sum(axis=-1) - 2 * z_BND @ code_CD.T  # |z|^2 is the same for all
    return distance_BNC.argmin(axis=-1)


def decode(params: Params, e_BND: Float[Array, "B N D"]) -> Float[Array, "B F M"]:
    """Frames of codes. No frame depends on a later code."""
    padded = jnp.pad(e_BND, ((0, 0), (_TAPS - 1, 0), (0, 0)))
    return frames_of(params, e_BND, _conv(padded, params["decoder_conv"]))


def decode_next(
    params: Params, seen_BSD: Float[Array, "B S D"], e_BD: Float[Array, "B D"]
) -> tuple[Float[Array, "B P M"], Float[Array, "B S D"]]:
    """The 4 frames of one code, and what the next one needs: the last two codes."""
    window_BKD = jnp.concatenate([seen_BSD, e_BD[:, None]], axis=1)
    frames_BPM = frames_of(params, e_BD[:, None], _conv(window_BKD, params["decoder_conv"]))
    return frames_BPM, window_BKD[:, 1:]


def nothing_seen(cfg: CodecConfig, num_sounds: int) -> Float[Array, "B S D"]:
    """The `seen_BSD` that `decode_next` takes with the first code."""
    return jnp.zeros((num_sounds, _TAPS - 1, cfg.width), jnp.float32)


def frames_of(params: Params, e_BND: Array, h_BND: Array) -> Float[Array, "B F M"]:
    x_BNW = (e_BND + jax.nn.gelu(h_BND)) @ params["decoder_out"] + params["decoder_bias"]
    return x_BNW.reshape(x_BNW.shape[0], -1, mel.NUM_BANDS)


def _conv(padded_BND: Array, taps_KDD: Array) -> Array:
    """A convolution of width K, without padding."""
    num_out = padded_BND.shape[1] - len(taps_KDD) + 1
    parts = (padded_BND[:, k : k + num_out] @ tap_DD for k, tap_DD in enumerate(taps_KDD))
    return functools.reduce(jnp.add, parts)


class Seen(NamedTuple):
    """What a step of training saw."""

    loss: Float[Array, ""]
    error: Float[Array, ""]  # mean square of the reconstruction, in the features' units
    counts_C: Float[Array, "C"]  # how often each code was chosen


@functools.partial(jax.jit, static_argnums=0)
def loss(
    cfg: CodecConfig,
    params: Params,
    book: Codebook,
    mel_BFM: Array,
    is_sound_BN: Bool[Array, "B N"],
) -> tuple[Float[Array, ""], tuple[Seen, Array]]:
    """The loss over tokens that are sound, and (what was seen, latents)."""
    z_BND = latents(params, mel_BFM)
    e_BND = book.code_CD[nearest(book.code_CD, jax.lax.stop_gradient(z_BND))]
    through_BND = z_BND + jax.lax.stop_gradient(e_BND - z_BND)
    missed_BFM = mel_BFM - decode(params, through_BND)
    weight_BF1 = jnp.repeat(is_sound_BN, FRAMES_PER_TOKEN, axis=1)[..., None] / (
        jnp.maximum(is_sound_BN.sum(), 1) * FRAMES_PER_TOKEN * mel.NUM_BANDS
    )
    error = (weight_BF1 * missed_BFM**2).sum()
    pull_BN = ((z_BND - jax.lax.stop_gradient(e_BND)) ** 2).mean(axis=-1)
    commitment = (pull_BN * is_sound_BN).sum() / jnp.maximum(is_sound_BN.sum(), 1)
    total = error + (weight_BF1 * jnp.abs(missed_BFM)).sum() + cfg.commitment * commitment
    chosen_BNC = jax.nn.one_hot(nearest(book.code_CD, z_BND), cfg.num_codes)
    counts_C = (chosen_BNC * is_sound_BN[..., None]).sum(axis=(0, 1))
    return total, (Seen(total, error, counts_C), z_BND)


@functools.partial(jax.jit, static_argnums=0)
def followed(
    cfg: CodecConfig, book: Codebook, z_BND: Array, is_sound_BN: Array, key: Array
) -> Codebook:
    """The codebook after a batch: running means, and vectors of the batch for idle codes."""
    z_ND = z_BND.reshape(-1, z_BND.shape[-1])
    is_sound_N = is_sound_BN.reshape(-1)
    chosen_NC = jax.nn.one_hot(nearest(book.code_CD, z_ND[None])[0], cfg.num_codes)
    chosen_NC = chosen_NC * is_sound_N[:, None]
    keep = cfg.decay
    count_C = keep * book.count_C + (1 - keep) * chosen_NC.sum(axis=0)
    sum_CD = keep * book.sum_CD + (1 - keep) * chosen_NC.T @ z_ND
    even = count_C.sum() / cfg.num_codes
    is_idle_C = count_C < cfg.least_use * even
    # A token that is not sound would make padding a code.
    taken_C = jax.random.categorical(
        key, jnp.where(is_sound_N, 0.0, -jnp.inf), shape=(cfg.num_codes,)
    )
    count_C = jnp.where(is_idle_C, even, count_C)
    sum_CD = jnp.where(is_idle_C[:, None], z_ND[taken_C] * even, sum_CD)
    return Codebook(sum_CD / jnp.maximum(count_C, 1e-6)[:, None], count_C, sum_CD)


def use(counts_C: Float[Array, "C"]) -> dict[str, float]:
    """How much of the codebook is used: the share of codes, and 2^entropy over their number."""
    share_C = counts_C / jnp.maximum(counts_C.sum(), 1)
    entropy = -jnp.where(share_C > 0, share_C * jnp.log2(jnp.maximum(share_C, 1e-12)), 0.0).sum()
    return {
        "codes_used": float((counts_C > 0).mean()),
        "codebook_perplexity": float(2**entropy / len(counts_C)),
    }
