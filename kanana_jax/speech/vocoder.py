"""Sound from log-mel frames as they come: real-time iterative spectrogram inversion, RTISI.

    |X| = sqrt(max(0, pinv(mel filters) power))
    frame m begins as what frames before it have left in its window; I times:
        x <- irfft(|X| exp(i angle(rfft(w x))))        x <- (left + w x) / (sum of w^2 by now)
    then it is added, and the first 160 samples, which no later frame reaches, are handed out

(Beauregard, Zhu & Wyse, DAFx 2005, without look-ahead.) Sound lags its frames by 200 samples, half
a window. It depends only on the frames before it, so it is the same however they are chunked.

Letters: B sounds, W samples of a window (400), H of a hop (160), M bands, R frequencies.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kanana_jax.speech import mel

_ITERATIONS = 4
_LOUDEST = 10.0**4  # power in a band; a decoder that errs must not hurt ears


def silence(num_sounds: int) -> Float[Array, "B W"]:
    """What is left in the window before the first frame."""
    return jnp.zeros((num_sounds, mel.WINDOW), jnp.float32)


def next_hop(
    left_BW: Float[Array, "B W"], log_mel_BM: Float[Array, "B M"]
) -> tuple[Float[Array, "B H"], Float[Array, "B W"]]:
    """160 samples in [-1, 1], and what is left in the window of the next frame."""
    magnitude_BR = _magnitudes(log_mel_BM)
    window_W, norm_W, before_W = map(jnp.asarray, (_window(), _norm(), _norm_before()))
    x_BW = left_BW / jnp.maximum(before_W, 1e-3)
    frame_BW = x_BW
    for _ in range(_ITERATIONS):
        spectrum_BR = jnp.fft.rfft(window_W * x_BW)
        phase_BR = spectrum_BR / jnp.maximum(jnp.abs(spectrum_BR), 1e-8)
        # Where nothing is left, as at the start, there is no angle: zero will do.
        phase_BR = jnp.where(jnp.abs(spectrum_BR) < 1e-8, 1.0, phase_BR)
        frame_BW = jnp.fft.irfft(magnitude_BR * phase_BR, mel.WINDOW)
        x_BW = (left_BW + window_W * frame_BW) / (before_W + window_W**2 + 1e-3)
    sum_BW = left_BW + window_W * frame_BW
    done_BH = sum_BW[:, : mel.HOP] / norm_W[: mel.HOP]
    left_BW = jnp.pad(sum_BW[:, mel.HOP :], ((0, 0), (0, mel.HOP)))
    return jnp.clip(done_BH, -1.0, 1.0), left_BW


def _magnitudes(log_mel_BM: Array) -> Float[Array, "B R"]:
    power_BM = jnp.minimum(10.0 ** (4.0 * log_mel_BM - 4.0), _LOUDEST)
    power_BR = power_BM @ jnp.asarray(_inverse())
    return jnp.sqrt(jnp.maximum(power_BR, 0.0))


@functools.cache
def _inverse() -> Float[np.ndarray, "M R"]:
    return np.linalg.pinv(mel.filters()).T.astype(np.float32)


@functools.cache
def _window() -> Float[np.ndarray, "W"]:
    return mel.hann().astype(np.float32)


def _squares(first: int, last: int) -> Float[np.ndarray, "W"]:
    """Sum of w^2 over frames `first` to `last` hops after this one, in its window."""
    total_W = np.zeros(mel.WINDOW)
    squares_W = mel.hann() ** 2
    for hops in range(first, last + 1):
        start = hops * mel.HOP
        low, high = max(0, start), min(mel.WINDOW, start + mel.WINDOW)
        total_W[low:high] += squares_W[low - start : high - start]
    return total_W.astype(np.float32)


@functools.cache
def _norm() -> Float[np.ndarray, "W"]:
    """Over all frames that reach the window's first 160 samples: this one and those before it."""
    return _squares(-2, 0)


@functools.cache
def _norm_before() -> Float[np.ndarray, "W"]:
    return _squares(-2, -1)
