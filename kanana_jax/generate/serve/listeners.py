"""Listeners of a speech server: each asks for a text, plays what comes as it comes, and asks again.

    playback   begins with the first byte; sound that is not there when it is due is an underrun,
               and playback goes on when it comes
    a request  follows the last one when that has been played to its end

So N listeners are N streams in real time. All begin at once, which is the worst moment to be the
last of them.
"""

import asyncio
import dataclasses
import itertools
import json
import time
from collections.abc import AsyncIterator, Sequence

from kanana_jax.speech import mel

_BYTES_PER_SECOND = 2 * mel.SAMPLE_RATE
_BYTES_PER_TOKEN = 2 * mel.SAMPLES_PER_TOKEN


@dataclasses.dataclass(frozen=True)
class Heard:
    """What one request was to its listener."""

    first_s: float  # from the request to the first byte of sound
    whole_s: float  # to the last
    sound_s: float
    first_tokens: int  # held back until there was sound: those in the first bytes
    underruns: int
    stalled_s: float  # that its listener waited for sound after the first
    largest_gap_s: float  # between bytes


@dataclasses.dataclass
class Playback:
    """Follows one request; times are seconds of one clock."""

    asked_s: float
    num_bytes: int = 0
    first_s: float | None = None
    first_bytes: int = 0
    last_s: float = 0.0
    ends_s: float = 0.0  # when what is there has been played
    underruns: int = 0
    stalled_s: float = 0.0
    largest_gap_s: float = 0.0

    def hear(self, num_bytes: int, now_s: float) -> None:
        """Sound of so many bytes has come."""
        if self.first_s is None:
            self.first_s, self.first_bytes, self.ends_s = now_s, num_bytes, now_s
        else:
            self.largest_gap_s = max(self.largest_gap_s, now_s - self.last_s)
            if now_s > self.ends_s:
                self.underruns += 1
                self.stalled_s += now_s - self.ends_s
                self.ends_s = now_s
        self.num_bytes += num_bytes
        self.ends_s += num_bytes / _BYTES_PER_SECOND
        self.last_s = now_s

    def heard(self) -> Heard:
        """Raises ValueError where nothing was heard."""
        if self.first_s is None:
            raise ValueError("an answer of /v1/audio/speech had no sound in it")
        return Heard(
            first_s=self.first_s - self.asked_s,
            whole_s=self.last_s - self.asked_s,
            sound_s=self.num_bytes / _BYTES_PER_SECOND,
            first_tokens=self.first_bytes // _BYTES_PER_TOKEN,
            underruns=self.underruns,
            stalled_s=self.stalled_s,
            largest_gap_s=self.largest_gap_s,
        )


async def listen(
    host: str, port: int, texts: Sequence[str], voice: str, *, num_listeners: int, seconds: float
) -> list[Heard]:
    """Requests that began within `seconds`, of listeners that all begin at once."""
    deadline_s = time.monotonic() + seconds

    async def follow(place: int) -> list[Heard]:
        found = []
        for number in itertools.count(place):
            heard, ends_s = await _ask(host, port, texts[number % len(texts)], voice)
            found.append(heard)
            await asyncio.sleep(max(0.0, min(ends_s, deadline_s) - time.monotonic()))
            if time.monotonic() >= deadline_s:
                return found
        raise AssertionError("count has no end")

    return [
        one for found in await asyncio.gather(*map(follow, range(num_listeners))) for one in found
    ]


async def _ask(host: str, port: int, text: str, voice: str) -> tuple[Heard, float]:
    """One request; also when its playback ends."""
    body = json.dumps({"input": text, "voice": voice, "response_format": "pcm"}).encode()
    playback = Playback(time.monotonic())
    reader, writer = await asyncio.open_connection(host, port)
    try:
        head = (
            f"POST /v1/audio/speech HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        status = await reader.readuntil(b"\r\n\r\n")
        if not status.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(f"expected 200 of /v1/audio/speech, got {status[:40]!r}")
        async for num_bytes in _parts(reader):
            playback.hear(num_bytes, time.monotonic())
    finally:
        writer.close()
    return playback.heard(), playback.ends_s


async def _parts(reader: asyncio.StreamReader) -> AsyncIterator[int]:
    """Sizes of the parts of a chunked body. ConnectionError where it is cut short."""
    try:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
            yield size
    except (asyncio.IncompleteReadError, ValueError) as error:
        raise ConnectionError(f"the answer was cut short ({error!r})") from None
