"""`input_audio` of a chat: sound in base64, which a model reads as codes or through its encoder.

    {"type": "input_audio", "input_audio": {"data": "UklGR...", "format": "wav"}}

The bytes themselves decide the format; the name that a client gives must be a known one.

Letters: T samples, F frames, M bands.
"""

import base64
import binascii
import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from kanana_jax.config import AudioConfig
from kanana_jax.data import chat as formats
from kanana_jax.generate import sound_prompts
from kanana_jax.generate.features import Room
from kanana_jax.generate.load import Loaded
from kanana_jax.generate.serve import fields
from kanana_jax.generate.serve.fields import bad, kind_of, shown
from kanana_jax.generate.serve.images import Prompt
from kanana_jax.speech import audio, chats, hearing, mel, vocabulary
from kanana_jax.speech.codec import Codec
from kanana_jax.speech.errors import AudioError

_MOST_SECONDS = 60.0  # of a request, however many tokens the server holds
_FORMATS = ("wav", "mp3", "flac", "ogg")

Mel = Float[np.ndarray, "F M"]


@dataclasses.dataclass(frozen=True)
class SoundLimits:
    """Limits of a request to a model with a sound encoder."""

    max_sounds: int = 4
    seconds: int = 30  # of each

    def room(self, shape: AudioConfig) -> Room:
        frames = shape.whole_positions(self.seconds * mel.FRAMES_PER_SECOND)
        return Room(sounds=self.max_sounds, sound_frames=frames)


class Ears:
    """Hears for all requests, one sound at a time, so that memory is bounded."""

    def __init__(self, take: "Callable[[Hearing, np.ndarray], str]", most_seconds: float):
        self.take, self.most_seconds = take, most_seconds
        self.one_at_a_time = threading.Lock()


class Hearing:
    """A `messages.Hear` of one request, whose sounds share its seconds; raises ApiError with 400.

    `sounds` holds what an encoder reads for each sound heard.
    """

    def __init__(self, ears: Ears):
        self._ears, self._left_s = ears, ears.most_seconds
        self.sounds: list[Mel] = []

    def __call__(self, param: str, value: Any) -> str:
        content = _content(param, value)
        with self._ears.one_at_a_time:
            try:
                samples_T = audio.read(content, most_seconds=self._left_s)
                self._left_s -= len(samples_T) / mel.SAMPLE_RATE
                return self._ears.take(self, samples_T)
            except AudioError as error:
                raise bad(f"{param}.data", str(error)) from None


def by_codes(codec: Codec, length: int) -> Ears:
    """The model reads the codes of its codec, as text."""

    def take(request: Hearing, samples_T: np.ndarray) -> str:
        return vocabulary.spelt(hearing.codes(codec, samples_T))

    return Ears(take, min(_MOST_SECONDS, length / mel.TOKENS_PER_SECOND))


def by_encoder(limits: SoundLimits) -> Ears:
    """The model's encoder reads each sound; a mark stands for it in the text."""

    def take(request: Hearing, samples_T: np.ndarray) -> str:
        if len(request.sounds) == limits.max_sounds:
            raise AudioError(f"expected at most {limits.max_sounds} sounds, got more")
        if len(samples_T) > limits.seconds * mel.SAMPLE_RATE:
            raise AudioError(
                f"expected at most {limits.seconds} s of sound, got "
                f"{len(samples_T) / mel.SAMPLE_RATE:.1f} s; send it in parts"
            )
        request.sounds.append(mel.log_mel(samples_T).astype(np.float16))
        return chats.MARK

    return Ears(take, float(limits.max_sounds * limits.seconds))


def prompt(
    loaded: Loaded,
    messages: list[dict[str, Any]],
    sounds: Sequence[Mel],
    limits: SoundLimits,
    tools: Sequence[formats.Tool] | None,
    variables: Mapping[str, Any],
) -> Prompt:
    """The ids of a conversation, and its sounds, for the encoder."""
    shape = loaded.cfg.audio
    assert shape is not None  # else there are no ears for an encoder
    room = limits.room(shape)
    found = sound_prompts.encode(loaded, messages, sounds, room, tools, **variables)
    return Prompt(found.ids, found.sounds)


def _content(param: str, value: Any) -> bytes:
    if not isinstance(value, dict):
        raise bad(param, f"must be an object with data and format, got {kind_of(value)}")
    left = fields.without_nulls(value)
    data, form = left.pop("data", None), left.pop("format", None)
    if form not in _FORMATS:
        raise bad(f"{param}.format", f"must be one of {', '.join(_FORMATS)}, got {shown(form)}")
    fields.refuse_others(left, {}, f"{param}.")
    if not isinstance(data, str):
        raise bad(f"{param}.data", f"must be base64, got {kind_of(data)}")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise bad(f"{param}.data", f"must be base64 ({error})") from None
