"""The HTTP side: /v1/models, /v1/completions and /v1/chat/completions, streaming by SSE.

400 a field or a prompt that can never be served   404 another model or path
413 a body that is too large                       429 the queue is full: try again later
500 a fault of ours                                503 shutting down, or the engine has failed

The body is JSON whatever its content type says.
"""

import asyncio
import contextlib
import dataclasses
import json
import reprlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from kanana_jax.generate.chat import ChatError
from kanana_jax.generate.load import Loaded
from kanana_jax.generate.requests import Piece, Request, RequestError
from kanana_jax.generate.serve import fields, protocol
from kanana_jax.generate.serve.fields import ApiError
from kanana_jax.generate.serve.protocol import Ask
from kanana_jax.generate.serve.worker import Job, QueueFullError, StoppedError, Worker

_MAX_BODY_BYTES = 8 * 2**20
_MANY_CHARACTERS = 20_000  # more text is tokenized in a thread
_CLIENT_IS_GONE = 499


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What the server is started with."""

    model_name: str
    num_rows: int  # requests that run at a time
    length: int  # prompt and answer together, tokens
    max_waiting: int  # further requests that may wait


def make_app(loaded: Loaded, worker: Worker, limits: Limits) -> Starlette:
    """An ASGI application; it starts `worker` when it starts up and stops it when it shuts down."""
    server = _Server(loaded, worker, limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    return Starlette(
        routes=[
            Route("/health", server.health),
            Route("/v1/models", server.models),
            Route("/v1/models/{name:path}", server.one_model),
            Route("/v1/completions", server.completions, methods=["POST"]),
            Route("/v1/chat/completions", server.chat_completions, methods=["POST"]),
        ],
        exception_handlers={
            ApiError: _api_error,
            ClientDisconnect: _client_is_gone,
            HTTPException: _http_error,
            Exception: _our_fault,
        },
        lifespan=lifespan,
    )


class _Server:
    def __init__(self, loaded: Loaded, worker: Worker, limits: Limits):
        self._loaded, self._worker, self._limits = loaded, worker, limits
        self._started = int(time.time())

    async def health(self, http: HttpRequest) -> Response:
        if not self._worker.is_running:
            raise ApiError(503, "the engine does not run", kind="server_error")
        return JSONResponse({"status": "ok", "open_requests": self._worker.num_open})

    async def models(self, http: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def one_model(self, http: HttpRequest) -> Response:
        self._check_model(http.path_params["name"])
        return JSONResponse(self._model())

    async def completions(self, http: HttpRequest) -> Response:
        ask = protocol.parse_completion(await _read_json(http))
        self._check(ask)
        prompts = await self._prompts_ids(ask.inputs)
        return await self._answer(http, ask, prompts, _COMPLETION)

    async def chat_completions(self, http: HttpRequest) -> Response:
        ask = protocol.parse_chat(await _read_json(http))
        self._check(ask)
        try:
            chat_ids = self._loaded.chat_ids
            prompt = await asyncio.to_thread(chat_ids, ask.inputs[0], ask.tools or None)
        except ChatError as error:
            raise ApiError(400, str(error), param="messages") from None
        return await self._answer(http, ask, [prompt], _CHAT)

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._limits.model_name,
            "object": "model",
            "created": self._started,
            "owned_by": "kanana_jax",
            "max_model_len": self._limits.length,
        }

    def _check(self, ask: Ask) -> None:
        """What needs no tokens."""
        self._check_model(ask.model)
        try:
            self._worker.check_number(ask.num_requests)
        except RequestError as error:
            param = "n" if len(ask.inputs) == 1 else "prompt"
            raise ApiError(400, str(error), param=param) from None

    def _check_model(self, name: str | None) -> None:
        if name not in (None, self._limits.model_name):
            raise ApiError(
                404,
                f"the model {reprlib.repr(name)} is not here; this server has "
                f"{self._limits.model_name!r}",
                param="model",
                code="model_not_found",
            )

    async def _prompts_ids(self, prompts: list[str | list[int]]) -> list[list[int]]:
        def read() -> list[list[int]]:
            return [self._loaded.prompt_ids(x) if isinstance(x, str) else x for x in prompts]

        is_long = sum(map(len, prompts)) > _MANY_CHARACTERS
        return await asyncio.to_thread(read) if is_long else read()

    async def _answer(
        self, http: HttpRequest, ask: Ask, prompts: list[list[int]], form: "_Form"
    ) -> Response:
        requests = self._requests(ask, prompts)
        try:
            job = self._worker.open(requests)
        except RequestError as error:
            raise ApiError(400, str(error), param="prompt") from None
        except QueueFullError as error:
            raise ApiError(429, str(error), kind="rate_limit_error", code="queue_full") from None
        except StoppedError as error:
            raise ApiError(503, str(error), kind="server_error") from None
        num_prompt_tokens = sum(map(len, prompts))
        head = form.head(self._limits.model_name)
        if ask.is_streamed:
            events = _events(job, ask, form, head, num_prompt_tokens)
            return _EventStream(events, on_end=lambda: self._worker.close(job))
        try:
            return await _until_the_client_goes(
                http, _whole_answer(job, form, head, num_prompt_tokens)
            )
        finally:
            self._worker.close(job)

    def _requests(self, ask: Ask, prompts: list[list[int]]) -> list[Request]:
        requests = []
        for prompt in prompts:
            room = self._limits.length - len(prompt)
            self._check_prompt(ask, prompt, room)
            wanted = room if ask.max_tokens is None else ask.max_tokens
            for _ in range(ask.num_choices):
                sampling = ask.sampling.at_place(len(requests))
                requests.append(
                    Request(prompt=prompt, max_tokens=wanted, sampling=sampling, stop=ask.stop)
                )
        return requests

    def _check_prompt(self, ask: Ask, prompt: list[int], room: int) -> None:
        if not prompt:
            raise ApiError(400, "the prompt is empty and this model has no bos token to begin with")
        if room < (ask.max_tokens or 1):
            raise ApiError(
                400,
                f"this server holds {self._limits.length} tokens of a request; the prompt has "
                f"{len(prompt)} and {ask.max_tokens or 1} were asked for: shorten one of them",
                code="context_length_exceeded",
            )


@dataclasses.dataclass(frozen=True)
class _Form:
    """How an endpoint spells the same answer."""

    prefix: str
    kind: str
    chunk_kind: str
    whole: Callable[[str], dict[str, Any]]
    part: Callable[[str], dict[str, Any]]
    opening: dict[str, Any] | None  # of every choice of a stream, before its text

    def head(self, model: str) -> dict[str, Any]:
        number = uuid.uuid4().hex
        return {"id": f"{self.prefix}-{number}", "created": int(time.time()), "model": model}

    def choice(self, place: int, body: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        return {"index": place, **body, "logprobs": None, "finish_reason": finish_reason}


_COMPLETION = _Form(
    prefix="cmpl",
    kind="text_completion",
    chunk_kind="text_completion",
    whole=lambda text: {"text": text},
    part=lambda text: {"text": text},
    opening=None,
)
_CHAT = _Form(
    prefix="chatcmpl",
    kind="chat.completion",
    chunk_kind="chat.completion.chunk",
    whole=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    part=lambda text: {"delta": {"content": text} if text else {}},
    opening={"delta": {"role": "assistant", "content": ""}},
)


async def _whole_answer(
    job: Job, form: _Form, head: dict[str, Any], num_prompt_tokens: int
) -> Response:
    texts = [""] * len(job.requests)
    reasons: list[str | None] = [None] * len(job.requests)
    num_drawn = 0
    try:
        async for place, pieces in job.batches():
            texts[place] += _text(pieces)
            reasons[place] = pieces[-1].finish_reason
            num_drawn += len(pieces)
    except StoppedError as error:
        raise ApiError(503, str(error), kind="server_error") from None
    choices = [
        form.choice(place, form.whole(text), reason)
        for place, (text, reason) in enumerate(zip(texts, reasons, strict=True))
    ]
    usage = _usage(num_prompt_tokens, num_drawn)
    return JSONResponse(head | {"object": form.kind, "choices": choices, "usage": usage})


async def _events(
    job: Job, ask: Ask, form: _Form, head: dict[str, Any], num_prompt_tokens: int
) -> AsyncIterator[str]:
    head = head | {"object": form.chunk_kind}
    if form.opening is not None:
        for place in range(len(job.requests)):
            yield _event(head | {"choices": [form.choice(place, form.opening, None)]})
    num_drawn = 0
    try:
        async for place, pieces in job.batches():
            num_drawn += len(pieces)
            text, reason = _text(pieces), pieces[-1].finish_reason
            if text or reason:
                yield _event(head | {"choices": [form.choice(place, form.part(text), reason)]})
    except StoppedError as error:
        yield _event(ApiError(503, str(error), kind="server_error").body)
        return
    if ask.has_usage:
        yield _event(head | {"choices": [], "usage": _usage(num_prompt_tokens, num_drawn)})
    yield "data: [DONE]\n\n"


class _EventStream(StreamingResponse):
    """Server-sent events; `on_end` is called however the stream ends."""

    def __init__(self, events: AsyncIterator[str], *, on_end: Callable[[], None]):
        super().__init__(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def _until_the_client_goes(http: HttpRequest, answer: Any) -> Response:
    answering = asyncio.ensure_future(answer)
    watching = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else Response(status_code=_CLIENT_IS_GONE)
    finally:
        answering.cancel()
        watching.cancel()


async def _disconnected(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _read_json(http: HttpRequest) -> Any:
    body, num_bytes = bytearray(), 0
    async for part in http.stream():
        num_bytes += len(part)
        if num_bytes <= _MAX_BODY_BYTES:  # clients hear an answer when all is sent
            body += part
    if num_bytes > _MAX_BODY_BYTES:
        raise ApiError(413, f"expected at most {_MAX_BODY_BYTES} bytes, got {num_bytes}")
    return fields.read_json(bytes(body))


def _text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _usage(num_prompt_tokens: int, num_drawn: int) -> dict[str, int]:
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_drawn,
        "total_tokens": num_prompt_tokens + num_drawn,
    }


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def _api_error(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error.body, status_code=error.status, headers=headers)


async def _client_is_gone(http: HttpRequest, error: Exception) -> Response:
    return Response(status_code=_CLIENT_IS_GONE)


async def _http_error(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    shown = ApiError(error.status_code, f"{http.method} {http.url.path}: {error.detail}")
    return JSONResponse(shown.body, status_code=error.status_code, headers=error.headers)


async def _our_fault(http: HttpRequest, error: Exception) -> Response:
    shown = ApiError(500, f"a fault of the server: {error!r}", kind="server_error")
    return JSONResponse(shown.body, status_code=500)
