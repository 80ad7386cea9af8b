"""Whisper's log-mel spectrogram (arXiv:2212.04356, sec. 2.2): 80 bands, a frame every 10 ms.

    power   |STFT|^2, Hann window of 400 samples, hop 160, frames centred, edges reflected
    mel     Slaney's triangles from 0 to 8 kHz, each of area 2 / width
    log     l = log10(max(mel, 1e-10));  l <- max(l, max(l) - 8);  (l + 4) / 4

Letters: T samples, F frames, R frequencies (201), M bands.
"""

import functools

import numpy as np
from jaxtyping import Float

SAMPLE_RATE = 16_000
WINDOW, HOP = 400, 160
NUM_BANDS = 80
NUM_FREQUENCIES = WINDOW // 2 + 1
FRAMES_PER_SECOND = SAMPLE_RATE // HOP
FRAMES_PER_TOKEN = 4  # of the codec
TOKENS_PER_SECOND = FRAMES_PER_SECOND // FRAMES_PER_TOKEN
SAMPLES_PER_TOKEN = FRAMES_PER_TOKEN * HOP
_FLOOR, _RANGE = 1e-10, 8.0  # power; decades below the loudest that are told apart
_LINEAR_HZ, _LINEAR_STEP = 1000.0, 200.0 / 3.0  # Slaney's scale is linear up to 1 kHz
_LOG_STEP = np.log(6.4) / 27.0  # and has 27 steps from there to 6.4 kHz


def log_mel(samples_T: Float[np.ndarray, "T"]) -> Float[np.ndarray, "F M"]:
    """Features of sound at 16 kHz in [-1, 1], one frame for each 160 whole samples.

    ValueError where there are fewer than 201 samples, which cannot be reflected at the edges.
    """
    if len(samples_T) <= WINDOW // 2:
        raise ValueError(
            f"log_mel needs more than {WINDOW // 2} samples at {SAMPLE_RATE} Hz, got "
            f"{len(samples_T)}; leave out sounds shorter than a window"
        )
    padded = np.pad(samples_T.astype(np.float64), WINDOW // 2, mode="reflect")
    frames_FW = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:-1]
    power_FR = np.abs(np.fft.rfft(frames_FW * hann())) ** 2
    return normalised(power_FR @ filters().T).astype(np.float32)


def normalised(mel_FM: Float[np.ndarray, "F M"]) -> Float[np.ndarray, "F M"]:
    """The logarithm of power in bands, as the encoder reads it."""
    log_FM = np.log10(np.maximum(mel_FM, _FLOOR))
    return (np.maximum(log_FM, log_FM.max() - _RANGE) + 4.0) / 4.0


@functools.cache
def hann() -> Float[np.ndarray, "W"]:
    """The periodic window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)


@functools.cache
def filters() -> Float[np.ndarray, "M R"]:
    """Weights of frequencies in bands."""
    frequency_R = np.linspace(0, SAMPLE_RATE / 2, NUM_FREQUENCIES)
    edges = _hz(np.linspace(0, _mels(SAMPLE_RATE / 2), NUM_BANDS + 2))
    low_M1, centre_M1, high_M1 = (edges[i : i + NUM_BANDS, None] for i in range(3))
    rising_MR = (frequency_R - low_M1) / (centre_M1 - low_M1)
    falling_MR = (high_M1 - frequency_R) / (high_M1 - centre_M1)
    return np.maximum(0, np.minimum(rising_MR, falling_MR)) * 2 / (high_M1 - low_M1)


def _mels(hz: float) -> float:
    above = _LINEAR_HZ / _LINEAR_STEP + np.log(hz / _LINEAR_HZ) / _LOG_STEP
    return above if hz >= _LINEAR_HZ else hz / _LINEAR_STEP


def _hz(mels: np.ndarray) -> np.ndarray:
    knee = _LINEAR_HZ / _LINEAR_STEP
    above = _LINEAR_HZ * np.exp(_LOG_STEP * (np.maximum(mels, knee) - knee))
    return np.where(mels >= knee, above, mels * _LINEAR_STEP)
