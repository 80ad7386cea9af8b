"""What the server has done, in the text format of Prometheus.

Everything is counted in the event loop, so no lock is needed.
"""

import bisect
import collections
import time
from collections.abc import Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "kanana_jax_"
_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Histogram:
    """A histogram of seconds."""

    def __init__(self):
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect.bisect_left(_BOUNDS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> Iterator[str]:
        number = 0
        for bound, count in zip((*map(str, _BOUNDS), "+Inf"), self._counts, strict=True):
            number += count
            yield f'{name}_bucket{{le="{bound}"}} {number}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {number}"


class Metrics:
    """Counters since the server started."""

    def __init__(self):
        self.statuses: collections.Counter[tuple[str, int]] = collections.Counter()
        self.num_prompt_tokens = self.num_drawn_tokens = 0
        self.num_speech_tokens = 0
        self.first_token, self.whole = Histogram(), Histogram()
        self.first_sound = Histogram()

    def text(self, *, num_running: int, num_waiting: int) -> str:
        return "".join(
            f"{line}\n"
            for name, kind, about, values in (
                ("requests_running", "gauge", "Requests that have a row", [num_running]),
                ("requests_waiting", "gauge", "Requests that wait for a row", [num_waiting]),
                ("prompt_tokens_total", "counter", "Tokens read", [self.num_prompt_tokens]),
                ("generation_tokens_total", "counter", "Tokens drawn", [self.num_drawn_tokens]),
                ("speech_tokens_total", "counter", "Tokens said", [self.num_speech_tokens]),
                ("http_responses_total", "counter", "Answers by path and status", self.statuses),
                ("time_to_first_token_seconds", "histogram", "From request", self.first_token),
                ("time_to_first_audio_seconds", "histogram", "From request", self.first_sound),
                ("request_duration_seconds", "histogram", "From request to end", self.whole),
            )
            for line in _lines(_PREFIX + name, kind, about, values)
        )


def _lines(
    name: str, kind: str, about: str, values: "list[int] | collections.Counter | Histogram"
) -> Iterator[str]:
    yield f"# HELP {name} {about}."
    yield f"# TYPE {name} {kind}"
    if isinstance(values, Histogram):
        yield from values.lines(name)
    elif isinstance(values, list):
        yield from (f"{name} {value}" for value in values)
    else:
        for (path, status), number in sorted(values.items()):
            yield f'{name}{{path="{path}",status="{status}"}} {number}'


class Counted:
    """An application whose answers are counted; `paths` are those that are told apart."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]):
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        begin = time.monotonic()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.statuses[path, message["status"]] += 1
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            self._metrics.whole.add(time.monotonic() - begin)
