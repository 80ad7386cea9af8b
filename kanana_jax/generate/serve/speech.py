"""/v1/audio/speech: a text in, its sound out as it is made. 16 bits, mono, 16 kHz.

Forms are `wav`, whose header leaves the length open, and `pcm`, little-endian samples alone; with
stream_format = "sse" the samples come as OpenAI's events, in base64.
"""

import asyncio
import base64
import json
import secrets
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from kanana_jax.generate import neutral
from kanana_jax.generate.chat import ChatError
from kanana_jax.generate.load import Loaded
from kanana_jax.generate.sampling import NUM_SEEDS, Sampling
from kanana_jax.generate.serve import failures, fields, streaming
from kanana_jax.generate.serve.fields import ApiError, bad, take
from kanana_jax.generate.serve.metrics import Metrics
from kanana_jax.generate.serve.worker import Job, Worker
from kanana_jax.generate.streams.engine import Utterance
from kanana_jax.speech import mel, vocabulary
from kanana_jax.speech.folder import Speaker

_MIN_P = 0.05  # rarer tokens of a small model are clicks
_UNKNOWN_SIZE = 2**32 - 1
_TYPES = {"wav": "audio/wav", "pcm": f"audio/pcm;rate={mel.SAMPLE_RATE};encoding=signed-int"}


class Spoken(NamedTuple):
    """What the server speaks with."""

    speaker: Speaker
    worker: Worker  # of a stream engine
    length: int  # tokens of a text and its speech


class _Ask(NamedTuple):
    model: str | None
    text: str
    voice: str
    form: str
    has_events: bool


class Speech:
    """The endpoint; `read_json` and `check_model` are the server's, and raise ApiError."""

    def __init__(
        self,
        loaded: Loaded,
        spoken: Spoken,
        metrics: Metrics,
        read_json: Callable[[HttpRequest], Awaitable[Any]],
        check_model: Callable[[str | None], None],
    ):
        self._loaded, self._spoken, self._metrics = loaded, spoken, metrics
        self._read_json, self._check_model = read_json, check_model

    async def speak(self, http: HttpRequest) -> Response:
        begin_s = time.monotonic()
        ask = _parse(await self._read_json(http), self._spoken.speaker.voices)
        self._check_model(ask.model)
        asked_for = {"role": "user", "content": vocabulary.to_say(ask.voice, ask.text)}
        try:
            prompt = await asyncio.to_thread(self._loaded.chat_ids, [asked_for])
        except ChatError as error:
            raise ApiError(400, str(error), param="input") from None
        asked = Utterance(
            prompt=prompt,
            max_tokens=max(self._spoken.length - len(prompt), 1),
            sampling=Sampling(min_p=_MIN_P, seed=secrets.randbelow(NUM_SEEDS)),
        )
        with failures.of_opening("input"):
            job = self._spoken.worker.open([asked])
        self._metrics.num_prompt_tokens += len(prompt)
        sound = self._sound(job, begin_s)
        media_type = "text/event-stream" if ask.has_events else _TYPES[ask.form]
        return streaming.EventStream(
            _events(sound, len(prompt)) if ask.has_events else _bytes(sound, ask.form),
            on_end=lambda: self._spoken.worker.close(job),
            media_type=media_type,
        )

    async def _sound(self, job: Job, begin_s: float) -> AsyncIterator[tuple[bytes, int]]:
        """Samples as they come, and how many tokens said them.

        StoppedError ends the connection: a client takes sound that ends normally for all of it.
        """
        is_heard = False
        async for _, sounds in job.batches():
            for one in sounds:
                if not one.num_tokens:
                    continue
                if not is_heard:
                    self._metrics.first_sound.add(time.monotonic() - begin_s)
                is_heard = True
                self._metrics.num_speech_tokens += one.num_tokens
                yield one.pcm, one.num_tokens


async def _bytes(sound: AsyncIterator[tuple[bytes, int]], form: str) -> AsyncIterator[bytes]:
    if form == "wav":
        yield _wav_header()
    async for pcm, _ in sound:
        yield pcm


async def _events(sound: AsyncIterator[tuple[bytes, int]], num_prompt: int) -> AsyncIterator[str]:
    num_said = 0
    async for pcm, num_tokens in sound:
        num_said += num_tokens
        delta = {"type": "speech.audio.delta", "audio": base64.b64encode(pcm).decode()}
        yield f"data: {json.dumps(delta)}\n\n"
    usage = {
        "input_tokens": num_prompt,
        "output_tokens": num_said,
        "total_tokens": num_prompt + num_said,
    }
    yield f"data: {json.dumps({'type': 'speech.audio.done', 'usage': usage})}\n\n"


def _wav_header() -> bytes:
    rate = mel.SAMPLE_RATE
    kind = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    riff = struct.pack("<4sI4s", b"RIFF", _UNKNOWN_SIZE, b"WAVE")
    return riff + kind + struct.pack("<4sI", b"data", _UNKNOWN_SIZE)


def _parse(body: Any, voices: tuple[str, ...]) -> _Ask:
    """The fields; raises ApiError with status 400."""
    if not isinstance(body, dict):
        raise ApiError(400, f"expected a JSON object, got {fields.kind_of(body)}")
    left = fields.without_nulls(body)
    text = left.pop("input", None)
    if not isinstance(text, str) or not text.strip():
        raise bad("input", f"must be a text, got {fields.shown(text)}")
    voice = left.pop("voice", voices[0])
    if voice not in voices:
        raise bad("voice", f"must be one of {', '.join(voices)}, got {fields.shown(voice)}")
    form = left.pop("response_format", "wav")
    if not isinstance(form, str) or form not in _TYPES:
        raise bad(
            "response_format", f"must be one of {', '.join(_TYPES)}, got {fields.shown(form)}"
        )
    stream_format = left.pop("stream_format", "audio")
    if stream_format not in ("audio", "sse"):
        raise bad("stream_format", f"must be audio or sse, got {fields.shown(stream_format)}")
    model = take(left, "model", str, None)
    fields.refuse_others(left, neutral.SPEECH)
    return _Ask(model, text, voice, form, stream_format == "sse")
