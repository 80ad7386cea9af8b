"""Listeners of a speech server: each asks for a text and plays what comes as it comes.

Each asks again when it has heard the end, so N listeners are N streams in real time. All begin at
once, which is the worst case for the last of them.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Sequence

from kanana_jax.generate.streams.playback import Heard, Playback


async def listen(
    host: str, port: int, texts: Sequence[str], voice: str, *, num_listeners: int, seconds: float
) -> list[Heard | None]:
    """What was heard of requests begun within `seconds`, all listeners at once; None: silence."""
    deadline_s = time.monotonic() + seconds

    async def follow(place: int) -> list[Heard | None]:
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


async def _ask(host: str, port: int, text: str, voice: str) -> tuple[Heard | None, float]:
    """What was heard of one request, and when its playback ends."""
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
