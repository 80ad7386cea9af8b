"""An endpoint in the loop of a test, which does to each request what a script says."""

import asyncio
import json

from kanana_jax.synthesize.client import Client, Settings
from kanana_jax.synthesize.requests import Request


def completion(text="fine", model="m", reason="stop", **message):
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    choice = {"message": {"content": text, **message}, "finish_reason": reason}
    return json.dumps({"model": model, "choices": [choice], "usage": usage}).encode()


def reply(content=b"", status=200, headers=()):
    """A whole HTTP reply that ends its connection."""
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(content)}", "Connection: close"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + content


FAULTS = {
    "429": reply(status=429),
    "429 with seconds": reply(status=429, headers=["Retry-After: 7"]),
    "500": reply(status=500, content=b"generate the rate"),
    "hang": None,
    "truncated body": reply(completion())[:-10],
    "truncated JSON": reply(completion()[:-9]),
    "no completion": reply(b'{"choices": []}'),
    "closed at once": b"",
}


class Endpoint:
    """script(body, number of times that this body was asked) -> bytes to send, or None to hang."""

    def __init__(self, script):
        self._script = script
        self.asked = []  # bodies
        self.num_open = self.most_open = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _serve(self, reader, writer):
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = [line for line in head.lower().split(b"\r\n") if b"content-length" in line]
            body = json.loads(await reader.readexactly(int(lines[0].split(b":")[1])))
            self.asked.append(body)
            said = self._script(body, self.asked.count(body))
            if said is None:
                await reader.read()  # until the client hangs up
            else:
                await asyncio.sleep(0)
                writer.write(said)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.num_open -= 1
            writer.close()


def request(text="hello", model="m", **more):
    messages = ({"role": "user", "content": text},)
    return Request(model=model, messages=messages, max_tokens=10, seed=1, **more)


class Slept(list):
    """Stands in for asyncio.sleep and lists the seconds that it was asked to wait."""

    async def __call__(self, seconds):
        self.append(seconds)
        await asyncio.sleep(0)


def client(endpoint, records, slept=None, **settings):
    settings = {"timeout_s": 10.0, "attempts": 4} | settings
    sleep = Slept() if slept is None else slept
    return Client(Settings(endpoint=endpoint.url, **settings), records, sleep=sleep)
