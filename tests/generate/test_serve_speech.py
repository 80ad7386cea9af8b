"""Speech over HTTP, with an engine of streams that says what is scripted."""

import asyncio
import base64
import io
import json
import time

import http_client
import jax
import numpy as np
import pytest
import soundfile
from scripted import Scripted
from served import Served

from kanana_jax.data import tokenizer
from kanana_jax.generate import serve
from kanana_jax.generate.serve.speech import Spoken
from kanana_jax.generate.streams.engine import Sound
from kanana_jax.speech import codec, hearing, mel, vocabulary
from kanana_jax.speech.codec import CodecConfig
from kanana_jax.speech.folder import Speaker

pytestmark = pytest.mark.slow

CFG = CodecConfig(num_codes=16, width=8)
PATH, CHAT = "/v1/audio/speech", "/v1/chat/completions"
ASK = {"input": "good morning", "voice": "en-m1", "response_format": "pcm"}
USED = tokenizer.byte_tokenizer()


class Voice:
    """Says a token for each o in the prompt, two in a step; a prompt with three dots never ends."""

    def __init__(self):
        self._left = {}
        self.asked = []

    @property
    def is_idle(self):
        return not self._left

    @property
    def num_running(self):
        return len(self._left)

    def check(self, request):
        pass

    def submit(self, request):
        self.asked.append(request)
        text = USED.decode_marked(request.prompt)
        self._left[len(self.asked)] = -1 if "..." in text else text.count("o")
        return len(self.asked)

    def cancel(self, number):
        self._left.pop(number, None)

    def step(self):
        time.sleep(0.001)
        sounds = []
        for number, left in [*self._left.items()]:
            new = 2 if left < 0 else min(2, left)
            self._left[number] = left - new if left >= 0 else left
            reason = "stop" if self._left[number] == 0 else None
            pcm = np.full(new * mel.SAMPLES_PER_TOKEN, number, "<i2").tobytes()
            sounds.append(Sound(number, pcm, new, reason))
            if reason:
                del self._left[number]
        return sounds


@pytest.fixture(scope="module")
def speaker():
    return Speaker(CFG, codec.init(CFG, jax.random.key(0)), ("en-m1", "ko-f1"))


@pytest.fixture
def speaking(loaded, speaker):
    voice = Voice()
    worker = serve.Worker(voice, num_rows=1, max_waiting=1)
    spoken = Spoken(speaker, worker, length=200)
    engine = Scripted(lambda prompt: "I hear.")
    with Served(loaded, engine=engine, length=4096, spoken=spoken) as server:
        server.voice, server.speech = voice, worker
        yield server


def post(server, path, body):
    """(status, headers, content) of an answer that need not be JSON."""

    async def fetch():
        reader, writer = await http_client.send(server.port, path, body)
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        is_chunked = b"transfer-encoding: chunked" in head.lower()
        return int(head.split()[1]), head, http_client.unchunked(content) if is_chunked else content

    return asyncio.run(fetch())


def test_samples_come_whole_and_in_order(speaking):
    status, head, content = post(speaking, PATH, ASK)
    assert status == 200 and b"audio/pcm;rate=16000" in head
    # user:en-m1: good morning;
    assert np.frombuffer(content, "<i2").tolist() == [1] * (3 * mel.SAMPLES_PER_TOKEN)
    (asked,) = speaking.voice.asked
    assert USED.decode_marked(asked.prompt) == "user:en-m1: good morning;"
    assert len(asked.prompt) + asked.max_tokens == 200


def test_wav_is_read_by_a_library(speaking):
    status, head, content = post(speaking, PATH, ASK | {"response_format": "wav"})
    assert status == 200 and b"audio/wav" in head
    sound, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    assert rate == 16_000 and len(sound) == 3 * mel.SAMPLES_PER_TOKEN


def test_events_are_openais(speaking):
    status, _, content = post(speaking, PATH, ASK | {"stream_format": "sse"})
    assert status == 200
    *parts, last = [
        json.loads(x.removeprefix("data: ")) for x in content.decode().split("\n\n")[:-1]
    ]
    assert {one["type"] for one in parts} == {"speech.audio.delta"}
    samples = b"".join(base64.b64decode(one["audio"]) for one in parts)
    assert len(samples) == 2 * 3 * mel.SAMPLES_PER_TOKEN
    assert last["type"] == "speech.audio.done" and last["usage"]["output_tokens"] == 3


REFUSED = {
    "no text": ({"input": " "}, "input", "must be a text"),
    "another voice": ({"voice": "anna"}, "voice", "must be one of en-m1, ko-f1, got 'anna'"),
    "no voice's name": ({"voice": {}}, "voice", "must be one of en-m1"),
    "form": ({"response_format": "opus"}, "response_format", "must be one of wav, pcm"),
    "stream": ({"stream_format": "x"}, "stream_format", "must be audio or sse"),
    "speed": ({"speed": 2}, "speed", "not supported here"),
    "unknown": ({"pitch": 1}, "pitch", "unknown field pitch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_said_is_refused_by_name(name):
    change, param, message = REFUSED[name]
    with pytest.raises(serve.speech.ApiError) as caught:
        serve.speech._parse(ASK | change, ("en-m1", "ko-f1"))
    assert caught.value.status == 400
    assert caught.value.body["error"]["param"] == param
    assert message in caught.value.body["error"]["message"]


def test_a_listener_that_hangs_up_frees_its_place_and_more_than_places_are_told(speaking):
    endless = ASK | {"input": "on and on..."}

    async def listen():
        first, hanging = await http_client.send(speaking.port, PATH, endless)
        await first.readuntil(b"\r\n\r\n")
        _, waiting = await http_client.send(speaking.port, PATH, endless)
        while speaking.speech.num_open < 2:
            await asyncio.sleep(0.005)
        refused = await http_client.fetch(speaking.port, PATH, endless)
        for writer in (hanging, waiting):
            writer.close()
        return refused

    refused = asyncio.run(listen())
    assert refused.status == 429 and refused.body["error"]["code"] == "queue_full"
    end = time.monotonic() + 30
    while speaking.speech.num_open or not speaking.voice.is_idle:
        assert time.monotonic() < end
        time.sleep(0.01)


def sound_of(seconds, form="WAV"):
    time_T = np.arange(int(16_000 * seconds)) / 16_000
    samples_T = 0.3 * np.sin(2 * np.pi * 300 * time_T * (1 + time_T))
    file = io.BytesIO()
    soundfile.write(
        file, samples_T, 16_000, format=form, subtype="FLOAT" if form == "WAV" else None
    )
    return samples_T, file.getvalue()


def with_sound(content, form="wav"):
    part = {"data": base64.b64encode(content).decode(), "format": form}
    parts = [{"type": "text", "text": "Write down: "}, {"type": "input_audio", "input_audio": part}]
    return {"messages": [{"role": "user", "content": parts}]}


def test_sound_in_a_chat_is_read_as_its_codes(speaking, speaker):
    samples_T, content = sound_of(1.3)
    answer = speaking.fetch(CHAT, with_sound(content))
    assert answer.status == 200, answer.body
    (asked,) = speaking.engine.asked
    said = USED.decode_marked(asked.prompt)
    features_FM = mel.log_mel(samples_T.astype(np.float32))[:128]
    codes = np.asarray(codec.encode(speaker.codec, features_FM[None]))[0].tolist()
    assert said == f"user:Write down: {vocabulary.spelt(codes)};"
    assert len(codes) == 32 and len(set(codes)) > 2


def test_codes_do_not_depend_on_what_lengths_are_compiled(speaker):
    samples_T, _ = sound_of(1.36)  # 34 tokens in 64 places
    features_FM = mel.log_mel(samples_T)
    want = np.asarray(codec.encode(speaker.codec, features_FM[None]))[0].tolist()
    assert hearing.codes(speaker.codec, samples_T) == want and len(want) == 34


BAD_SOUND = {
    "no object": ({"type": "input_audio"}, "input_audio", "an object with data and format"),
    "form": (with_sound(b"", "webm"), "input_audio.format", "must be one of wav, mp3, flac, ogg"),
    "no sound": (with_sound(b"GIF89a"), "input_audio.data", "none or are damaged"),
    "long": (with_sound(sound_of(70, "FLAC")[1]), "input_audio.data", "at most 60 s of sound"),
    "no base64": (
        {"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}},
        "input_audio.data",
        "must be base64",
    ),
}


@pytest.mark.parametrize("name", BAD_SOUND)
def test_sound_that_cannot_be_heard_is_refused(speaking, name):
    body, param, message = BAD_SOUND[name]
    if "messages" not in body:
        body = {"messages": [{"role": "user", "content": [body]}]}
    answer = speaking.fetch(CHAT, body)
    assert answer.status == 400
    assert answer.body["error"]["param"].endswith(param)
    assert message in answer.body["error"]["message"]
    assert not speaking.engine.asked


def test_two_sounds_of_a_request_share_its_seconds(speaking):
    parts = with_sound(sound_of(35, "FLAC")[1])["messages"][0]["content"]
    answer = speaking.fetch(CHAT, {"messages": [{"role": "user", "content": [parts[1]] * 2}]})
    assert answer.status == 400
    assert answer.body["error"]["param"] == "messages[0].content[1].input_audio.data"
    assert "at most 25 s of sound" in answer.body["error"]["message"]


def test_a_server_without_speech_says_how_to_start_one(served):
    answer = served.fetch(CHAT, with_sound(b"x"))
    assert answer.status == 400
    assert "start it with --speech" in answer.body["error"]["message"]
    assert served.fetch(PATH, ASK).status == 404
