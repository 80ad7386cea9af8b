"""Toy speech by espeak-ng, a formant synthesiser: a known text with a known voice, offline.

It is a stand-in where no recordings are at hand. Nobody sounds like it, and it reads Korean as
spelt, without the assimilation of sounds that every speaker makes: results on it say nothing about
recordings. The library is under GPL-3 and comes with `espeakng-loader`, an extra.
"""

import ctypes
import dataclasses
import functools
import math
import random
import threading
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import signal

from kanana_jax import extras
from kanana_jax.speech import mel
from kanana_jax.speech.errors import SpeechError

Language = Literal["en", "ko"]
# Variants of timbre that come with espeak-ng; those held out are never trained on.
TRAINED = ("m1", "m2", "m3", "m4", "m5", "m6", "f1", "f2", "f3", "f4")
HELD_OUT = ("m7", "f5", "klatt2")
_SPEEDS, _PITCHES = (130, 200), (30, 70)  # words a minute; espeak-ng's scale of 0 to 99

_RETRIEVAL, _UTF8 = 1, 1
_RATE, _PITCH = 1, 3
_lock = threading.Lock()  # the library speaks one text at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Voice:
    """A timbre, a speed and a pitch of one language."""

    language: Language
    variant: str = "m1"
    words_per_minute: int = 160
    pitch: int = 50


def drawn(language: Language, variants: tuple[str, ...], rng: random.Random) -> Voice:
    """A random voice with one of these timbres."""
    return Voice(
        language=language,
        variant=rng.choice(variants),
        words_per_minute=rng.randint(*_SPEEDS),
        pitch=rng.randint(*_PITCHES),
    )


def speak(text: str, voice: Voice) -> Float[np.ndarray, "T"]:
    """Samples at 16 kHz in [-1, 1]. SpeechError for another variant.

    The library's flutter goes on from text to text: only the same calls of a fresh process, in the
    same order, give the same samples.
    """
    known = TRAINED + HELD_OUT
    if voice.variant not in known:  # the library would silently take its usual voice
        raise SpeechError(f"a variant of a voice must be one of {known}, got {voice.variant!r}")
    with _lock:
        library, rate, chunks, _ = _library()
        name = f"{voice.language}+{voice.variant}"
        if library.espeak_SetVoiceByName(name.encode()) != 0:
            raise SpeechError(f"espeak-ng has no voice {name!r}; install espeakng-loader anew")
        library.espeak_SetParameter(_RATE, voice.words_per_minute, 0)
        library.espeak_SetParameter(_PITCH, voice.pitch, 0)
        chunks.clear()
        spelt = text.encode() + b"\0"
        failed = library.espeak_Synth(spelt, len(spelt), 0, 0, 0, _UTF8, None, None)
        if failed:
            raise SpeechError(f"espeak-ng could not speak {text[:40]!r} (error {failed})")
        library.espeak_Synchronize()
        samples = np.concatenate([*chunks, np.zeros(1, np.int16)])
    common = math.gcd(rate, mel.SAMPLE_RATE)
    spoken = signal.resample_poly(samples / 2**15, mel.SAMPLE_RATE // common, rate // common)
    return np.clip(spoken, -1, 1).astype(np.float32)


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@functools.cache
def _library() -> tuple[ctypes.CDLL, int, list[np.ndarray], Any]:
    """The library, its rate, the list of what it speaks, and the callback, which must be kept."""
    with extras.needed("speech"):
        import espeakng_loader
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    chunks: list[np.ndarray] = []

    def take(wave, num_samples, events):
        if wave and num_samples > 0:
            chunks.append(np.ctypeslib.as_array(wave, (num_samples,)).copy())
        return 0

    callback = _Callback(take)
    path = espeakng_loader.get_data_path().encode()
    rate = library.espeak_Initialize(_RETRIEVAL, 0, path, 0)
    if rate <= 0:
        raise SpeechError(f"espeak-ng did not start with its data in {path.decode()!r}")
    library.espeak_SetSynthCallback(callback)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    return library, rate, chunks, callback
