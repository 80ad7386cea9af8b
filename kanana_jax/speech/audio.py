"""Untrusted files of sound, as samples at 16 kHz: one clear error, and bounded memory.

libsndfile decodes (WAV, FLAC, Ogg, MP3), a second at a time. A header may promise anything and a
small file may hold hours of silence, so reading ends once more than allowed has come.
"""

import io
import math

import numpy as np
from jaxtyping import Float
from scipy import signal

from kanana_jax import extras
from kanana_jax.speech import mel
from kanana_jax.speech.errors import AudioError

SHORTEST_S = 0.1
_RATES = (8_000, 192_000)
_MOST_CHANNELS = 8
_MOST_RATIO = 1_000  # of a rate to 16 kHz, reduced; a resampling filter is as long


def read(content: bytes, *, most_seconds: float) -> Float[np.ndarray, "T"]:
    """All channels mixed into one, at 16 kHz in [-1, 1]. AudioError where it cannot be used."""
    with extras.needed("speech"):
        import soundfile
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate = _checked_rate(file.samplerate, file.channels)
            samples_T = _mono(file, int(most_seconds * rate), most_seconds)
    except soundfile.SoundFileError as error:
        raise AudioError(
            f"expected sound as WAV, FLAC, Ogg or MP3, got {len(content)} bytes that are none or "
            f"are damaged ({' '.join(str(error).split())[:120]}); send a whole file"
        ) from None
    if len(samples_T) < SHORTEST_S * rate:
        raise AudioError(
            f"expected at least {SHORTEST_S:g} s of sound, got {len(samples_T) / rate:.3f} s"
        )
    if not np.isfinite(samples_T).all():
        raise AudioError("expected samples that are numbers, got some that are not; mend the file")
    common = math.gcd(rate, mel.SAMPLE_RATE)
    resampled_T = signal.resample_poly(samples_T, mel.SAMPLE_RATE // common, rate // common)
    return np.clip(resampled_T, -1, 1).astype(np.float32)


def _checked_rate(rate: int, channels: int) -> int:
    low, high = _RATES
    if not low <= rate <= high or rate // math.gcd(rate, mel.SAMPLE_RATE) > _MOST_RATIO:
        raise AudioError(
            f"expected a usual sample rate from {low} to {high} Hz, as 16000 or 44100, got {rate}; "
            "convert the file"
        )
    if channels > _MOST_CHANNELS:
        raise AudioError(f"expected at most {_MOST_CHANNELS} channels, got {channels}; mix them")
    return rate


def _mono(file, most: int, most_seconds: float) -> Float[np.ndarray, "T"]:
    """Mixes a second at a time, so that all channels are never in memory together."""
    parts, num_read = [], 0
    while len(part_TC := file.read(file.samplerate, dtype="float32", always_2d=True)):
        num_read += len(part_TC)
        if num_read > most:
            raise AudioError(
                f"expected at most {most_seconds:g} s of sound, got more; send it in parts"
            )
        parts.append(part_TC.mean(axis=1))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
