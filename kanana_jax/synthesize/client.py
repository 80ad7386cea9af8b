"""Asks an endpoint: answers from the cache if it can, else asks within limits, again after faults.

    wait before attempt k = Retry-After, or base 2^k (1/2 + u/2)        u in [0, 1) by key and k

Nothing is random: the same run waits the same times.
"""

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from kanana_jax.synthesize import replies
from kanana_jax.synthesize.limits import Bucket
from kanana_jax.synthesize.records import Records
from kanana_jax.synthesize.replies import Answer, EndpointError, Failure, Fault, RequestFailed
from kanana_jax.synthesize.requests import Request

_LONGEST_BACKOFF_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    endpoint: str  # up to and with /v1
    api_key: str = ""
    concurrency: int = 16
    requests_per_minute: float = 0.0  # 0: no limit
    tokens_per_minute: float = 0.0
    timeout_s: float = 300.0  # of one attempt
    attempts: int = 6
    backoff_s: float = 1.0


@dataclass
class Counts:
    """What a run has done so far."""

    asked: int = 0
    cached: int = 0
    retried: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        names = dataclasses.asdict(self)
        return Counts(**{name: value + getattr(other, name) for name, value in names.items()})


class Client:
    """Opened by `async with`; `records` stays open as long as it does."""

    def __init__(
        self,
        settings: Settings,
        records: Records,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        self.counts = Counts()
        self._settings, self._records, self._sleep = settings, records, sleep
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._requests = Bucket(settings.requests_per_minute)
        self._tokens = Bucket(settings.tokens_per_minute)
        self._open: dict[str, asyncio.Task[Answer]] = {}

    async def __aenter__(self) -> "Client":
        key, is_plain = self._settings.api_key, self._settings.endpoint.startswith("http://")
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self._settings.timeout_s,
            verify=not is_plain,  # reading certificates takes a while, and plain HTTP has none
            limits=httpx2.Limits(max_connections=self._settings.concurrency),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._open.values():
            task.cancel()
        await asyncio.gather(*self._open.values(), return_exceptions=True)
        await self._http.aclose()

    async def ask(self, request: Request) -> Answer:
        """RequestFailed if this request has no answer, EndpointError if none will have one."""
        key = request.key()
        cached = self._records.get(key)
        if cached is not None:
            self.counts.cached += 1
            return Answer(**cached)
        if key not in self._open:  # an equal one that is under way answers both
            task = asyncio.create_task(self._ask(key, request))
            self._open[key] = task
            task.add_done_callback(lambda _: self._open.pop(key, None))
        return await asyncio.shield(self._open[key])

    async def _ask(self, key: str, request: Request) -> Answer:
        async with self._slots:
            found = await self._tried(key, request)
        if isinstance(found, Failure):
            self.counts.failed += 1
            raise RequestFailed(found)
        self._records.append(key, found._asdict())
        self.counts.asked += 1
        self.counts.tokens_in += found.tokens_in
        self.counts.tokens_out += found.tokens_out
        return found

    async def _tried(self, key: str, request: Request) -> Answer | Failure:
        found: Any = None
        for attempt in range(self._settings.attempts):
            if attempt:
                self.counts.retried += 1
                await self._sleep(self._wait_s(key, attempt, found.wait_s))
            await self._requests.take(1)
            await self._tokens.take(request.num_tokens())
            found = await self._once(request)
            if isinstance(found, Answer) and found.tokens_in:
                self._tokens.give_back(request.num_tokens() - found.tokens_in - found.tokens_out)
            if not isinstance(found, Fault):
                return found
        return Failure("gave up", f"{self._settings.attempts} attempts, the last: {found.detail}")

    async def _once(self, request: Request) -> Answer | Failure | Fault:
        url = f"{self._settings.endpoint.rstrip('/')}/chat/completions"
        try:
            # Limits the whole attempt: the library's timeout limits each part.
            async with asyncio.timeout(self._settings.timeout_s):
                reply = await self._http.post(url, json=request.body())
        except (TimeoutError, httpx2.TransportError) as error:
            return Fault(f"{type(error).__name__}: {error}")
        except httpx2.InvalidURL as error:
            raise EndpointError(f"--endpoint={url!r} is no address: {error}") from error
        return replies.read(
            reply.status_code, reply.headers, reply.content, request.model, time.time()
        )

    def _wait_s(self, key: str, attempt: int, named: float | None) -> float:
        if named is not None:
            return named
        digest = hashlib.blake2b(f"{key} {attempt}".encode(), digest_size=4).digest()
        share = int.from_bytes(digest) / 2**32
        longest = min(self._settings.backoff_s * 2 ** (attempt - 1), _LONGEST_BACKOFF_S)
        return longest * (0.5 + 0.5 * share)
