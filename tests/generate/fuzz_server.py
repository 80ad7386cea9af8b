"""Random requests against a server: python tests/generate/fuzz_server.py --requests=5000 --seed=0.

Valid requests with fields changed, random JSON, raw bytes, clients that hang up or are slow, and
several requests in one connection. The command starts a server of a tiny model, and exits with 1
when a plain request is no longer answered as before; when a request gets no answer, an answer that
is not JSON or an undocumented status; when a traceback is on stderr; or when memory grows.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import http_client
import served

from kanana_jax.data import chat

ANSWER_SECONDS = 60
_AT_ONCE = 16
_STRANGE = [
    None, True, False, 0, 1, -1, -0.0, 0.5, 1e-320, 1e308, 10**18, -(10**30), 2**31, 2**63, "",
    "x", "\x00", "\uac00" * 40, "x" * 5000, [], {}, [[]], [None], [1, "a"], [[1], "b"], {"a": 1},
    {"type": "text"}, ["\n"], list(range(300)), [[[[[[]]]]]],
]  # fmt: skip
_NUMBERS = [
    "temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "top_k",
    "repetition_penalty",
]  # fmt: skip
_INTEGERS = [
    "n", "best_of", "max_tokens", "max_completion_tokens", "seed", "logprobs", "top_logprobs",
    "min_tokens",
]  # fmt: skip
_OTHERS = [
    "stop",
    "stream",
    "stream_options",
    "logit_bias",
    "user",
    "metadata",
    "echo",
    "suffix",
    "model",
    "response_format",
    "tools",
    "tool_choice",
    "prompt",
    "messages",
    "ignore_eos",
    "unknown",
    "stop_token_ids",
    "parallel_tool_calls",
    "documents",
    "chat_template_kwargs",
    "skip_special_tokens",
]
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
_SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
# Fields that the server acts on.
_DONE = [
    ("logit_bias", {"65": 100, "66": -100}), ("logit_bias", {"258": 1}), ("logprobs", 3),
    ("logprobs", True), ("top_logprobs", 2), ("echo", True), ("stop_token_ids", [65, 257]),
    ("stop_token_ids", [258]), ("tools", [_TOOL]), ("tools", [_TOOL] * 2), ("ignore_eos", True),
    ("tool_choice", "required"), ("tool_choice", "none"), ("parallel_tool_calls", False),
    ("tool_choice", {"type": "function", "function": {"name": "f"}}),
    ("response_format", {"type": "json_object"}), ("documents", [{"text": "x"}]),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": _SCHEMA}}),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": {"pattern": "(a+)+$"}}}),
    ("chat_template_kwargs", {"enable_thinking": False}), ("chat_template_kwargs", {"self": 1}),
    ("skip_special_tokens", False), ("min_tokens", 3), ("repetition_penalty", 1e-40),
]  # fmt: skip
_STATUSES = {"200", "400", "404", "405", "413", "429"}
_RAW = [
    b"", b"\r\n\r\n", b"GET", b"GET / HTTP/9.9\r\n\r\n", b"\x00\xff\x16\x03",
    b"GET /\xff HTTP/1.1",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}\r\n",
    b"GET /health HTTP/1.1\r\n" + b"X: " + b"y" * 80_000 + b"\r\n\r\n",
    b"GET /v1/models/%ff%00%ed%a0%80 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n",
]  # fmt: skip


class Fuzzer:
    """Sends requests to a port of this machine and counts what comes back, by status."""

    def __init__(self, port: int, seed: int):
        self._port, self._random = port, random.Random(seed)
        self.counts: collections.Counter[str] = collections.Counter()
        self.problems: list[str] = []

    async def run(self, num_requests: int) -> None:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(attack, content):
            async with gate:
                try:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        await attack(content)
                except TimeoutError:
                    self.problems.append(f"no answer within {ANSWER_SECONDS} s: {content[:300]!r}")
                except ConnectionRefusedError:
                    self.problems.append("nobody listens any more")
                except OSError:  # the server hung up first, as it may on bytes that are not HTTP
                    self.counts["hung up"] += 1

        attacks = [self._whole] * 6
        attacks += [self._piecewise, self._hang_up, self._pipelined, self._raw]
        # Drawn here: what is sent depends on the seed, not on who comes first.
        drawn = [(self._random.choice(attacks), self._request()) for _ in range(num_requests)]
        await asyncio.gather(*[one(attack, content) for attack, content in drawn])

    async def _whole(self, content: bytes) -> None:
        self._book(content, await self._exchange([content]))

    async def _piecewise(self, content: bytes) -> None:
        """A slow client."""
        cut = len(content) // 2
        self._book(content, await self._exchange([content[:20], content[20:cut], content[cut:]]))

    async def _pipelined(self, content: bytes) -> None:
        kept = content.replace(b"Connection: close\r\n", b"")
        self._book(content, await self._exchange([kept + kept + content]))

    async def _raw(self, content: bytes) -> None:
        """What may not be HTTP; the server need not answer, and reads nothing after its end."""
        sent = _RAW[len(content) % len(_RAW)] if len(content) % 3 else content[len(content) // 3 :]
        self._book(sent, await self._exchange([sent], is_ended=True), is_http=False)

    async def _hang_up(self, content: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(content[: len(content) * (len(content) % 5) // 4])
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            if len(content) % 2:
                await asyncio.wait([asyncio.ensure_future(reader.read(1))], timeout=0.05)
        writer.transport.abort()
        self.counts["we hung up"] += 1

    async def _exchange(self, parts: list[bytes], *, is_ended: bool = False) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            for place, part in enumerate(parts):
                if place:
                    await asyncio.sleep(0.02)
                writer.write(part)
                await writer.drain()
            if is_ended:
                writer.write_eof()
            return await reader.read()
        finally:
            writer.transport.abort()

    def _book(self, sent: bytes, answer: bytes, *, is_http: bool = True) -> None:
        statuses = re.findall(rb"HTTP/1\.1 (\d{3})", answer)
        if not statuses:
            self.counts["no status"] += 1
            if is_http:
                self.problems.append(f"no answer to {sent[:300]!r}")
        for status in map(bytes.decode, statuses):
            self.counts[status] += 1
            if status not in _STATUSES or not self._is_sound(answer, len(statuses)):
                self.problems.append(f"{answer[:500]!r} to {sent[:300]!r}")

    def _is_sound(self, answer: bytes, num_answers: int) -> bool:
        """Whether a single answer is JSON, or events of it."""
        head, _, content = answer.partition(b"\r\n\r\n")
        if num_answers > 1 or b"text/plain" in head or head.startswith(b"HTTP/1.1 100"):
            return True  # several in one connection, requests that are not HTTP, metrics
        if b"text/event-stream" not in head:
            return not content or http_client.is_json(content)
        events = http_client.unchunked(content).split(b"\n\n")[:-1]
        return all(one == b"data: [DONE]" or http_client.is_json(one[6:]) for one in events)

    def _request(self) -> bytes:
        pick = self._random.random()
        path = self._random.choice(["/v1/completions", "/v1/chat/completions"])
        path = "/tokenize" if self._random.random() < 0.03 else path
        if pick < 0.70:
            body = json.dumps(self._mutated(path)).encode()
        elif pick < 0.80:
            body = json.dumps(self._value(0)).encode()
        elif pick < 0.802:
            body = b" " * (9 << 20)
        elif pick < 0.90:
            body = self._broken(json.dumps(self._mutated(path)).encode())
        else:
            body = self._random.choice(
                [b"", b"[" * 50_000, b"\xff\xfe{", b'{"prompt": NaN}', b'{"model": "\\ud800"}',
                 b'{"prompt": "a", "top_p": 1e999}', b'{"\\udfff": 1, "prompt": "a"}',
                 b'{"a":' * 900 + b"1" + b"}" * 900, self._random.randbytes(200),
                 b'{"seed": ' + b"9" * 5000 + b"}", b'{"n": 1, "n": 2, "prompt": "a"}']
            )  # fmt: skip
        method = self._random.choice(["POST"] * 30 + ["GET", "PUT", "DELETE", "OPTIONS", "BREW"])
        path = self._random.choice(
            [path] * 20 + ["/v1/models", "/health", "/metrics", "/", "//", "/v1/x?y=%00"]
        )
        kind = self._random.choice(["application/json"] * 9 + ["text/plain", "multipart/form-data"])
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
        return f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    def _mutated(self, path: str) -> dict[str, Any]:
        body: dict[str, Any] = {"max_tokens": self._random.randint(1, 8)}
        if path == "/tokenize":
            body = {}
        if path != "/v1/chat/completions":
            body["prompt"] = self._random.choice(["a", "<|bos|>\uac00", [1, 2], ["a", "b"], [[5]]])
        else:
            message = {"role": "user", "content": "hi"}
            body["messages"] = [message] * self._random.randint(1, 3)
        body["stream"] = self._random.random() < 0.3
        for _ in range(self._random.choice([0, 0, 1, 1, 1, 2, 3])):
            name, value = self._field()
            body[name] = value
        if "messages" in body and self._random.random() < 0.2:
            name = self._random.choice(["role", "content", "name", "tool_calls", "reasoning", "x"])
            body["messages"] = [{"role": "assistant", "content": "x", name: self._value(2)}]
        return body

    def _field(self) -> tuple[str, Any]:
        """A field and a value, often of the field's own kind, in and out of its range."""
        if self._random.random() < 0.3:
            return self._random.choice(_DONE)
        if self._random.random() < 0.3:
            return self._random.choice(_NUMBERS + _INTEGERS + _OTHERS), self._value(0)
        if self._random.random() < 0.6:
            number = self._random.choice([0, 1, 2, -1, 0.5, 0.99, 1e-30, 1e-320, 3.5, 2**31, 2**70])
            return self._random.choice(_NUMBERS), number
        if self._random.random() < 0.6:
            return self._random.choice(_INTEGERS), self._random.choice(
                [0, 1, 2, 3, 20, -1, 63, 2**31]
            )
        return self._random.choice(
            [("stop", ["\n", "\uac00"]), ("stop", "e"), ("stream_options", {"include_usage": True}),
             ("stream_options", {"x": 1}), ("prompt", "a" * 100), ("prompt", [258]), ("model", "y"),
             ("prompt", [[1]] * 40), ("prompt", [-1]), ("prompt", [10**30]), ("user", "u")]
        )  # fmt: skip

    def _value(self, depth: int) -> Any:
        if depth > 3 or self._random.random() < 0.7:
            return self._random.choice(_STRANGE)
        names = self._random.sample(_NUMBERS + _INTEGERS + _OTHERS, self._random.randint(0, 4))
        if self._random.random() < 0.5:
            return {name: self._value(depth + 1) for name in names}
        return [self._value(depth + 1) for _ in names]

    def _broken(self, body: bytes) -> bytes:
        place = self._random.randrange(len(body))
        noise = self._random.randbytes(self._random.randint(0, 4))
        return body[:place] + noise + body[place + self._random.randint(0, 4) :]


async def plain_text(port: int) -> str:
    """What a plain greedy request gets."""
    answer = await http_client.fetch(port, "/v1/completions", served.GREEDY)
    return served.text_of(answer) if answer.status == 200 else str(answer.body)


def main() -> None:
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "log"
        with _server(Path(name) / "small", log) as (port, process):
            problems = _attack(port, process, arguments)
        written = log.read_text(errors="replace")
    if "Traceback" in written or "ERROR" in written:
        problems.append(f"the server's log: {written[-3000:]}")
    for problem in problems:
        print("PROBLEM:", problem)
    sys.exit(bool(problems))


def _attack(port: int, process: subprocess.Popen, arguments: argparse.Namespace) -> list[str]:
    before, begin = asyncio.run(plain_text(port)), time.monotonic()
    counts, problems, memory = collections.Counter(), [], []
    num_rounds = 10
    for number in range(num_rounds):
        fuzzer = Fuzzer(port, arguments.seed * num_rounds + number)
        asyncio.run(fuzzer.run(arguments.requests // num_rounds))
        counts += fuzzer.counts
        problems += fuzzer.problems
        memory.append(_resident_mib(process.pid))
        if fuzzer.problems:
            return problems
    after = asyncio.run(plain_text(port))
    seconds = time.monotonic() - begin
    print(f"{arguments.requests} requests in {seconds:.0f} s: {dict(sorted(counts.items()))}")
    print(f"memory by tenths, MiB: {[round(x) for x in memory]}")
    if after != before:
        problems.append(f"before: {before!r}, after: {after!r}")
    # The first rounds fill pools; a leak goes on.
    if memory[-1] - memory[num_rounds // 2] > arguments.memory_mib:
        problems.append(f"memory grows: {memory}")
    return problems


@contextlib.contextmanager
def _server(folder: Path, log: Path):
    """(port, process) of the server's own command over a tiny model."""
    served.write_model(folder, chat.PLAIN.template)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "kanana_jax.generate.serve", f"--checkpoint={folder}"]
    command += [f"--port={port}", f"--length={served.LENGTH}", "--batch-size=4"]
    command += ["--max-waiting=24"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.2)
        yield port, process
    finally:
        process.terminate()
        process.wait(60)


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory-mib", type=float, default=16, help="growth of the second half")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
