"""A small HTTP client on asyncio streams, so that a test can hang up when it likes."""

import asyncio
import json
from typing import Any, NamedTuple


class Answer(NamedTuple):
    status: int
    body: Any  # parsed JSON; for an event stream the list of its events, "[DONE]" as text


async def send(port: int, path: str, body: Any = None, *, method: str | None = None):
    """(reader, writer) of a request that is under way; `body` may be bytes already."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    method = method or ("GET" if body is None else "POST")
    content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    await writer.drain()
    return reader, writer


async def fetch(port: int, path: str, body: Any = None, *, method: str | None = None) -> Answer:
    reader, writer = await send(port, path, body, method=method)
    try:
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()
    status = int(head.split()[1])
    if b"transfer-encoding: chunked" in head.lower():
        content = unchunked(content)
    if b"text/event-stream" in head:
        events = [line[6:] for line in content.decode().split("\n\n") if line]
        return Answer(status, [x if x == "[DONE]" else json.loads(x) for x in events])
    return Answer(status, json.loads(content))


def is_json(content: bytes) -> bool:
    """Whether this is JSON with JSON's own numbers only, in UTF-8."""

    def refuse(name):
        raise ValueError(name)

    try:
        json.loads(content.decode(), parse_constant=refuse)
    except ValueError:
        return False
    return True


def unchunked(content: bytes) -> bytes:
    """The body of a chunked answer."""
    parts = []
    while content:
        size, _, rest = content.partition(b"\r\n")
        parts.append(rest[: int(size, 16)])
        content = rest[int(size, 16) + 2 :]
    return b"".join(parts)
