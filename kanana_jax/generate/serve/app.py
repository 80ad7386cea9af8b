"""The HTTP side: OpenAI's endpoints, /tokenize, /metrics; streaming by SSE.

400 a field or a prompt that can never be served   401 no API key, where one is needed
404 another model or path                          413 a body that is too large
429 the queue is full: try again later             500 a fault of ours
503 shutting down, or the engine has failed

The body is JSON whatever its content type says.
"""

import asyncio
import contextlib
import dataclasses
import functools
import reprlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kanana_jax.data.chat.dialects import Thinking
from kanana_jax.data.chat.reading import Reader
from kanana_jax.generate.grammar import GrammarError, Grammars
from kanana_jax.generate.load import Loaded
from kanana_jax.generate.requests import Matcher, Request, RequestError
from kanana_jax.generate.serve import (
    access,
    bodies,
    failures,
    hearing,
    messages,
    metrics,
    protocol,
    replies,
    speech,
    streaming,
)
from kanana_jax.generate.serve.fields import ApiError, bad
from kanana_jax.generate.serve.hearing import SoundLimits
from kanana_jax.generate.serve.images import ImageLimits, Prompt
from kanana_jax.generate.serve.prompts import Prompts
from kanana_jax.generate.serve.protocol import Ask
from kanana_jax.generate.serve.worker import Worker


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What the server is started with."""

    model_name: str
    num_rows: int  # requests that run at a time
    length: int  # prompt and answer together, tokens
    max_waiting: int  # further requests that may wait
    max_body_bytes: int = 8 * 2**20
    api_key: str | None = None  # None: whoever can connect may ask
    origins: tuple[str, ...] = ()  # of web pages that may ask, "*" for all
    images: ImageLimits | None = None  # None: messages have no images
    sounds: SoundLimits | None = None  # of a model's encoder; None: it has none


def make_app(
    loaded: Loaded, worker: Worker, limits: Limits, spoken: speech.Spoken | None = None
) -> Starlette:
    """An ASGI application that starts the workers at its startup and stops them at its shutdown.

    With `spoken` it speaks.
    """
    workers = [worker] if spoken is None else [worker, spoken.worker]
    ears = None if spoken is None else hearing.by_codes(spoken.speaker.codec, limits.length)
    if limits.sounds is not None:
        ears = hearing.by_encoder(limits.sounds)
    server = _Server(loaded, worker, limits, workers, ears)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        for one in workers:
            one.start()
        yield
        for one in workers:
            await asyncio.to_thread(one.stop)

    routes = [
        Route("/health", server.health),
        Route("/metrics", server.shown_metrics),
        Route("/tokenize", server.tokenize, methods=["POST"]),
        Route("/tokenizer_info", server.tokenizer_info),
        Route("/detokenize", server.detokenize, methods=["POST"]),
        Route("/v1/models", server.models),
        Route("/v1/models/{name:path}", server.one_model),
        Route("/v1/completions", server.completions, methods=["POST"]),
        Route("/v1/chat/completions", server.chat_completions, methods=["POST"]),
    ]
    if spoken is not None:
        said = speech.Speech(loaded, spoken, server.metrics, server.read_json, server.check_model)
        routes.append(Route("/v1/audio/speech", said.speak, methods=["POST"]))
    paths = frozenset(route.path for route in routes)
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(metrics.Counted, server.metrics, paths),
            *access.middleware(limits.api_key, limits.origins),
        ],
        exception_handlers=failures.HANDLERS,
        lifespan=lifespan,
    )


class _Server:
    def __init__(
        self,
        loaded: Loaded,
        worker: Worker,
        limits: Limits,
        workers: Sequence[Worker],
        ears: hearing.Ears | None,
    ):
        self._loaded, self._worker, self._limits = loaded, worker, limits
        self._workers, self._ears = workers, ears
        self._dialect = loaded.dialect
        self._prompts = Prompts(loaded, limits.images, limits.sounds)
        self._grammars = Grammars(loaded.tokenizer, loaded.cfg.vocab_size, loaded.eos_ids)
        self._started = int(time.time())
        self.metrics = metrics.Metrics()

    async def health(self, http: HttpRequest) -> Response:
        if not all(one.is_running for one in self._workers):
            raise ApiError(503, "the engine does not run", kind="server_error")
        return JSONResponse({"status": "ok", "open_requests": self._worker.num_open})

    async def shown_metrics(self, http: HttpRequest) -> Response:
        num_open = self._worker.num_open
        num_running = min(num_open, self._limits.num_rows)
        text = self.metrics.text(num_running=num_running, num_waiting=num_open - num_running)
        return Response(text, media_type=metrics.CONTENT_TYPE)

    async def models(self, http: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def one_model(self, http: HttpRequest) -> Response:
        self.check_model(http.path_params["name"])
        return JSONResponse(self._model())

    async def tokenize(self, http: HttpRequest) -> Response:
        ask, sounds = await self._parsed(protocol.parse_prompt, await self.read_json(http))
        self.check_model(ask.model)
        if sounds:
            raise bad("messages", "must have no sound here: an encoder reads it, not as tokens")
        if not isinstance(ask.given, str):
            ids = (await self._prompts.of_conversation(ask.given, ask.tooling, ask.variables)).ids
        elif ask.is_whole:
            ids = await self._prompts.of_text(ask.given)
        else:
            ids = await asyncio.to_thread(self._loaded.tokenizer.encode_marked, ask.given)
        return JSONResponse(
            {"tokens": ids, "count": len(ids), "max_model_len": self._limits.length}
        )

    async def tokenizer_info(self, http: HttpRequest) -> Response:
        used, template = self._loaded.tokenizer, self._loaded.template
        ends = {"bos_token": used.bos_id, "eos_token": used.eos_id}
        info: dict[str, Any] = {
            name: None if one is None else used.decode_marked([one]) for name, one in ends.items()
        }
        return JSONResponse(info | {"chat_template": template and template.source})

    async def detokenize(self, http: HttpRequest) -> Response:
        name, ids = protocol.parse_ids(await self.read_json(http), self._loaded.cfg.vocab_size)
        self.check_model(name)
        return JSONResponse({"prompt": self._loaded.tokenizer.decode_marked(ids)})

    async def completions(self, http: HttpRequest) -> Response:
        ask = protocol.parse_completion(await self.read_json(http))
        self._check(ask)
        used, is_drawn = self._loaded.tokenizer, ask.max_tokens != 0
        prompts = [Prompt(await self._prompts.of_text(one)) for one in ask.inputs]

        def choice(place: int) -> replies.Choice:
            given, ids = ask.inputs[place], prompts[place].ids
            text = given if isinstance(given, str) else used.decode(ids)
            prompt = (text, ids) if ask.is_echoed else None
            return replies.Completion(used, ask.num_top_logprobs, prompt, has_answer=is_drawn)

        constraint = await self._constraint(ask, "over")
        return await self._answer(http, ask, prompts, constraint, replies.COMPLETION, choice)

    async def chat_completions(self, http: HttpRequest) -> Response:
        parse = functools.partial(protocol.parse_chat, has_images=self._limits.images is not None)
        ask, sounds = await self._parsed(parse, await self.read_json(http))
        self._check(ask)
        if sounds and ask.image_urls:
            raise bad("messages", "must have images or sounds of one kind, got both")
        prompt = await self._prompts.of_conversation(
            ask.inputs[0], ask.tooling, ask.variables, ask.image_urls, sounds
        )
        thinking = self._prompts.thinking_after(prompt.ids)
        constraint = await self._constraint(ask, thinking)
        reads_calls = ask.tooling.reads_calls

        def choice(place: int) -> replies.Choice:
            reader = self._dialect and Reader(self._dialect, thinking, reads_calls=reads_calls)
            max_calls = None if ask.tooling.wanted.is_parallel else 1
            used = self._loaded.tokenizer
            return replies.Message(used, ask.num_top_logprobs, reader, max_calls=max_calls)

        return await self._answer(http, ask, [prompt], constraint, replies.CHAT, choice)

    async def _parsed[A](
        self, parse: Callable[[Any, messages.Hear], A], body: Any
    ) -> tuple[A, list[hearing.Mel]]:
        """The fields of a conversation, and its sounds where an encoder hears them.

        A conversation that may hold sound is read off the event loop.
        """
        if self._ears is None:
            return parse(body, messages.deaf), []
        hear = hearing.Hearing(self._ears)
        return await asyncio.to_thread(parse, body, hear), hear.sounds

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._limits.model_name,
            "object": "model",
            "created": self._started,
            "owned_by": "kanana_jax",
            "max_model_len": self._limits.length,
        }

    def _check(self, ask: Ask) -> None:
        """Checks what needs no tokens."""
        self.check_model(ask.model)
        try:
            self._worker.check_number(ask.num_requests)
        except RequestError as error:
            param = "n" if len(ask.inputs) == 1 else "prompt"
            raise ApiError(400, str(error), param=param) from None

    def check_model(self, name: str | None) -> None:
        if name not in (None, self._limits.model_name):
            raise ApiError(
                404,
                f"the model {reprlib.repr(name)} is not here; this server has "
                f"{self._limits.model_name!r}",
                param="model",
                code="model_not_found",
            )

    async def _constraint(self, ask: Ask, thinking: Thinking) -> Callable[[], Matcher] | None:
        wanted = ask.tooling.wanted
        if wanted.is_free:
            return None
        param = "response_format" if wanted.schema is not None else "tools"
        if not self._loaded.eos_ids:
            raise ApiError(400, f"{param} needs a model that names its end of a text", param=param)
        try:
            return await asyncio.to_thread(
                self._grammars.constraint, wanted, self._dialect, thinking
            )
        except GrammarError as error:
            raise ApiError(400, str(error), param=param) from None

    async def _answer(
        self,
        http: HttpRequest,
        ask: Ask,
        prompts: list[Prompt],
        constraint: Callable[[], Matcher] | None,
        form: replies.Form,
        choice: Callable[[int], replies.Choice],
    ) -> Response:
        with failures.of_opening("prompt"):
            job = self._worker.open(self._requests(ask, prompts, constraint))
        num_prompt_tokens = sum(len(one.ids) for one in prompts)
        self.metrics.num_prompt_tokens += num_prompt_tokens
        answering = streaming.Answering(
            job,
            [choice(place) for place in range(len(prompts)) for _ in range(ask.num_choices)],
            form,
            self._limits.model_name,
            num_prompt_tokens,
            self.metrics,
            counts_drawn=ask.max_tokens != 0,
        )
        if ask.is_streamed:
            events = answering.events(has_usage=ask.has_usage)
            return streaming.EventStream(events, on_end=lambda: self._worker.close(job))
        try:
            return await streaming.until_the_client_goes(http, answering.whole())
        finally:
            self._worker.close(job)

    def _requests(
        self, ask: Ask, prompts: list[Prompt], constraint: Callable[[], Matcher] | None
    ) -> list[Request]:
        asked, requests = ask.options, []
        # Marks that are special tokens are read only if their text is shown.
        marks = self._dialect.marks if self._dialect and ask.tooling.reads_calls else ()
        has_marks = any(map(self._loaded.tokenizer.is_special, marks))
        for prompt in prompts:
            room = self._limits.length - len(prompt.ids)
            self._check_prompt(ask, prompt.ids, room)
            for _ in range(ask.num_choices):
                requests.append(
                    Request(
                        prompt=prompt.ids,
                        features=prompt.features,
                        max_tokens=room if ask.max_tokens is None else ask.max_tokens or 1,
                        sampling=asked.sampling.at_place(len(requests)),
                        stop=asked.stop,
                        processors=asked.processors,
                        stop_ids=asked.stop_ids,
                        ignores_eos=asked.ignores_eos,
                        constraint=constraint,
                        num_top_logprobs=ask.num_top_logprobs,
                        has_prompt_logprobs=ask.is_echoed and ask.num_top_logprobs is not None,
                        has_special_tokens=asked.has_special_tokens or has_marks,
                    )
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

    async def read_json(self, http: HttpRequest) -> Any:
        return await bodies.read_json(http, self._limits.max_body_bytes)
