"""`input_audio` of a chat: sound in base64, which the model reads as the codes of its codec.

    {"type": "input_audio", "input_audio": {"data": "UklGR...", "format": "wav"}}

The format is that of the bytes themselves; what a client says of it must be a known name.
"""

import base64
import binascii
import threading
from typing import Any

from kanana_jax.generate.serve import fields
from kanana_jax.generate.serve.fields import bad, kind_of, shown
from kanana_jax.generate.serve.messages import Hear
from kanana_jax.speech import audio, hearing, mel, vocabulary
from kanana_jax.speech.codec import Codec
from kanana_jax.speech.errors import AudioError

_MOST_SECONDS = 60.0  # of a request, however many tokens the server holds
_FORMATS = ("wav", "mp3", "flac", "ogg")


class Ears:
    """Hears for all requests, one sound at a time, so that memory is bounded."""

    def __init__(self, codec: Codec, length: int):
        self._codec, self._one_at_a_time = codec, threading.Lock()
        self._most_seconds = min(_MOST_SECONDS, length / mel.TOKENS_PER_SECOND)

    def of_request(self) -> Hear:
        """For the sounds of one request, which share its seconds; raises ApiError with 400."""
        left_s = self._most_seconds

        def hear(param: str, value: Any) -> str:
            nonlocal left_s
            content = _content(param, value)
            with self._one_at_a_time:
                try:
                    samples_T = audio.read(content, most_seconds=left_s)
                except AudioError as error:
                    raise bad(f"{param}.data", str(error)) from None
                left_s -= len(samples_T) / mel.SAMPLE_RATE
                return vocabulary.spelt(hearing.codes(self._codec, samples_T))

        return hear


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
