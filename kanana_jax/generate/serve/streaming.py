"""From a job's pieces to responses: whole, or as server-sent events; and clients that go away."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from kanana_jax.generate.requests import Piece
from kanana_jax.generate.serve.fields import ApiError
from kanana_jax.generate.serve.metrics import Metrics
from kanana_jax.generate.serve.replies import Choice, Form
from kanana_jax.generate.serve.worker import Job, StoppedError

CLIENT_IS_GONE = 499


@dataclasses.dataclass
class Answering:
    """An answer under way: the job that draws it, and the choices that it fills."""

    job: Job
    choices: Sequence[Choice]
    form: Form
    model: str
    num_prompt_tokens: int
    metrics: Metrics
    counts_drawn: bool = True  # false where a token is drawn that nobody asked for
    num_drawn: int = 0

    async def whole(self) -> Response:
        head = self.form.head(self.model) | {"object": self.form.kind}
        async with contextlib.aclosing(self._followed()) as followed:
            async for _ in followed:
                pass
        choices = [{"index": place, **choice.whole()} for place, choice in enumerate(self.choices)]
        return JSONResponse(head | {"choices": choices, "usage": self._usage()})

    async def events(self, *, has_usage: bool) -> AsyncIterator[str]:
        head = self.form.head(self.model) | {"object": self.form.part_kind}
        if self.form.opening is not None:
            for place in range(len(self.choices)):
                yield _event(head | {"choices": [{"index": place, **self.form.opening}]})
        try:
            async with contextlib.aclosing(self._followed()) as followed:
                async for place in followed:
                    part = self.choices[place].part()
                    if part is not None:
                        yield _event(head | {"choices": [{"index": place, **part}]})
        except ApiError as error:
            yield _event(error.body)
            return
        if has_usage:
            yield _event(head | {"choices": [], "usage": self._usage()})
        yield "data: [DONE]\n\n"

    async def _followed(self) -> AsyncGenerator[int]:
        """Places of the choices that have grown. ApiError when the engine stops."""
        begin = time.monotonic()
        try:
            async for place, pieces in self.job.batches():
                if not self.num_drawn:
                    self.metrics.first_token.add(time.monotonic() - begin)
                self._count(pieces)
                self.choices[place].add(pieces)
                yield place
        except StoppedError as error:
            raise ApiError(503, str(error), kind="server_error") from None

    def _count(self, pieces: Sequence[Piece]) -> None:
        self.num_drawn += len(pieces)
        self.metrics.num_drawn_tokens += len(pieces)

    def _usage(self) -> dict[str, int]:
        num_drawn = self.num_drawn if self.counts_drawn else 0
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": num_drawn,
            "total_tokens": self.num_prompt_tokens + num_drawn,
        }


class EventStream(StreamingResponse):
    """Server-sent events, or bytes of another type; `on_end` is called however the stream ends."""

    def __init__(
        self,
        events: AsyncIterator[str] | AsyncIterator[bytes],
        *,
        on_end: Callable[[], None],
        media_type: str = "text/event-stream",
    ):
        super().__init__(events, media_type=media_type, headers={"Cache-Control": "no-cache"})
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def until_the_client_goes(
    http: HttpRequest, answer: Coroutine[Any, Any, Response]
) -> Response:
    answering = asyncio.ensure_future(answer)
    watching = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else Response(status_code=CLIENT_IS_GONE)
    finally:
        answering.cancel()
        watching.cancel()


async def _disconnected(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
