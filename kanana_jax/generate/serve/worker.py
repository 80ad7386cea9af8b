"""The engine in a thread of its own, and jobs that the event loop follows.

    event loop:  open(requests) -> job, batches of pieces, close(job)
    thread:      takes orders, steps the engine, hands pieces to the loop once per step

A job is what one HTTP request asks for: one engine request or several. Closing it, at its end or
when the client is gone, frees its rows and its places in the queue.
"""

import asyncio
import dataclasses
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from kanana_jax.generate.requests import RequestError

_log = logging.getLogger(__name__)


class QueueFullError(Exception):
    """No place is left for these requests now."""


class StoppedError(Exception):
    """The server is shutting down, or its engine has failed."""


class Stepped(Protocol):
    """An engine of text (`generate.Engine`) or of speech (`generate.streams.engine`).

    Each piece has the number of its `request`; the last one has a `finish_reason`.
    """

    @property
    def is_idle(self) -> bool: ...
    def check(self, request: Any, /) -> None: ...
    def submit(self, request: Any, /) -> int: ...
    def cancel(self, number: int, /) -> None: ...
    def step(self) -> Sequence[Any]: ...


@dataclasses.dataclass(eq=False)
class Job:
    """Requests that share one stream of answers."""

    requests: Sequence[Any]
    answers: asyncio.Queue[tuple[int, list[Any]] | Exception]
    loop: asyncio.AbstractEventLoop

    async def batches(self) -> AsyncIterator[tuple[int, list[Any]]]:
        """(place in `requests`, new pieces of it) until all have ended.

        Raises StoppedError when the worker stops before that.
        """
        num_open = len(self.requests)
        while num_open:
            answer = await self.answers.get()
            if isinstance(answer, Exception):
                raise answer
            num_open -= answer[1][-1].finish_reason is not None
            yield answer


class Worker:
    """Runs `engine` for any number of jobs; `max_waiting` requests may wait for a row.

    An engine that raises is not used again: its cache is lost. All open jobs hear of it, and
    `on_failure` is called in its thread.
    """

    def __init__(
        self,
        engine: Stepped,
        *,
        num_rows: int,
        max_waiting: int,
        on_failure: Callable[[], None] = lambda: None,
    ):
        self._engine, self._on_failure = engine, on_failure
        self._max_open = num_rows + max_waiting
        self.has_failed = False
        self._changed = threading.Condition()
        # Guarded by `_changed`:
        self._orders: list[tuple[bool, Job]] = []  # (whether it opens or closes, job)
        self._sizes: dict[Job, int] = {}
        self._is_stopping = False
        # The thread's own:
        self._places: dict[int, tuple[Job, int]] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def num_open(self) -> int:
        """Requests that run or wait."""
        with self._changed:
            return sum(self._sizes.values())

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive() and not self._is_stopping

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its present step; open jobs get StoppedError."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join()

    def check_number(self, num_requests: int) -> None:
        """Raises RequestError when there will never be places for so many at once."""
        if num_requests > self._max_open:
            raise RequestError(
                f"{num_requests} prompts or choices at once are more than the {self._max_open} "
                "that this server runs and lets wait; ask for fewer"
            )

    def open(self, requests: Sequence[Any]) -> Job:
        """Queues all of these requests or none. Call it in an event loop.

        Raises RequestError when they can never be served, QueueFullError and StoppedError.
        """
        self.check_number(len(requests))
        for request in requests:
            self._engine.check(request)
        job = Job(requests, asyncio.Queue(), asyncio.get_running_loop())
        with self._changed:
            if not self.is_running:
                raise StoppedError("the server is shutting down or its engine has failed")
            num_open = sum(self._sizes.values())
            if num_open + len(requests) > self._max_open:
                raise QueueFullError(
                    f"{num_open} requests run or wait, of at most {self._max_open}; try again later"
                )
            self._sizes[job] = len(requests)
            self._orders.append((True, job))
            self._changed.notify()
        return job

    def close(self, job: Job) -> None:
        """Drops what is left of a job; closing it again does no harm."""
        with self._changed:
            if self._sizes.pop(job, None):
                self._orders.append((False, job))
                self._changed.notify()

    def _run(self) -> None:
        error: Exception = StoppedError("the server is shutting down")
        try:
            while self._take_orders():
                if not self._engine.is_idle:
                    self._hand_out(self._engine.step())
        except BaseException as failure:  # libraries in Rust panic past Exception
            _log.exception("the engine failed")
            error = StoppedError(f"the engine failed: {failure!r}")
            self.has_failed = True
        with self._changed:
            self._is_stopping = True
            jobs = list(self._sizes)
        for job in jobs:
            _call(job, error)
        if self.has_failed:
            self._on_failure()

    def _take_orders(self) -> bool:
        """Waits for something to do and carries out new orders; False when it is time to stop."""
        with self._changed:
            while not self._orders and self._engine.is_idle and not self._is_stopping:
                self._changed.wait()
            orders, self._orders = self._orders, []
            if self._is_stopping:
                return False
        for is_new, job in orders:
            if is_new:
                for place, request in enumerate(job.requests):
                    self._places[self._engine.submit(request)] = (job, place)
            else:
                for number in [n for n, (owner, _) in self._places.items() if owner is job]:
                    self._engine.cancel(number)
                    del self._places[number]
        return True

    def _hand_out(self, pieces: Sequence[Any]) -> None:
        of_number: dict[int, list[Any]] = {}
        for piece in pieces:
            of_number.setdefault(piece.request, []).append(piece)
        for number, batch in of_number.items():
            job, place = self._places[number]
            if batch[-1].finish_reason:
                del self._places[number]
            _call(job, (place, batch))


def _call(job: Job, answer: tuple[int, list[Any]] | Exception) -> None:
    job.loop.call_soon_threadsafe(job.answers.put_nowait, answer)
