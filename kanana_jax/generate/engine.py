"""Continuous batching: requests wait in a queue and take a row of the cache as one gets free.

A step draws a few tokens for every running request, then gives waiting requests the free rows and
reads their prompts in chunks. Shapes come from a short list, so few functions are compiled.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from kanana_jax import config
from kanana_jax.errors import UserError
from kanana_jax.generate import decoder, sampling, text
from kanana_jax.generate.sampling import Sampling


class RequestError(UserError, ValueError):
    """A request that can never be served, with the settings that there are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt and how to go on from it."""

    prompt: Sequence[int]
    max_tokens: int = 128
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    stop: tuple[str, ...] = ()


class Piece(NamedTuple):
    """New text of a request; the last one says why it ended."""

    request: int  # the number that `submit` returned
    text: str
    token: int
    finish_reason: Literal["stop", "length"] | None = None


@dataclasses.dataclass
class _Running:
    number: int
    request: Request
    stream: text.TextStream
    position: int  # of the token that was drawn last
    token: int = 0
    num_drawn: int = 0


class Engine:
    """Generates for many requests at once; `decode` turns ids into text. Not for several threads.

    num_rows requests run at a time, each with `length` positions of cache; prompts are read
    `chunk` tokens at a time; a step draws `tokens_per_step` tokens before the host looks at them.
    """

    def __init__(
        self,
        cfg: config.ModelConfig,
        execution: config.ExecutionConfig,
        weights: decoder.UnstackedWeights,
        *,
        decode: Callable[[Sequence[int]], str],
        eos_ids: Iterable[int],
        num_rows: int = 8,
        length: int = 2048,
        chunk: int = 512,
        tokens_per_step: int = 4,
        mesh: jax.sharding.Mesh | None = None,
    ):
        decoder.check_sizes(
            num_rows=num_rows, length=length, chunk=chunk, tokens_per_step=tokens_per_step
        )
        self.length = length
        self._cfg, self._execution = cfg, execution
        self._weights, self._mesh = weights, mesh
        self._decode, self._eos_ids = decode, frozenset(eos_ids)
        self._chunk, self._tokens_per_step = chunk, tokens_per_step
        with decoder.on_mesh(mesh):
            self._cache = decoder.init_cache(cfg, execution, num_rows, length)
        self._rows: list[_Running | None] = [None] * num_rows
        self._waiting: collections.deque[tuple[int, Request]] = collections.deque()
        self._num_submitted = 0

    @property
    def num_running(self) -> int:
        return sum(one is not None for one in self._rows)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not any(self._rows)

    def check(self, request: Request) -> None:
        """Raises RequestError when a request can never be served; any thread may ask."""
        room = self.length - len(request.prompt)
        if not len(request.prompt) > 0 or not 0 < request.max_tokens <= room:
            raise RequestError(
                f"prompt and max_tokens must be positive and fit in {self.length} positions, got "
                f"{len(request.prompt)} and {request.max_tokens}; shorten them or raise the length"
            )
        ids = np.asarray(request.prompt)
        if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= self._cfg.vocab_size:
            raise RequestError(f"token ids must lie in [0, {self._cfg.vocab_size})")

    def submit(self, request: Request) -> int:
        """Queues a request, and returns its number; raises as `check` does."""
        self.check(request)
        self._num_submitted += 1
        self._waiting.append((self._num_submitted - 1, request))
        return self._num_submitted - 1

    def cancel(self, number: int) -> None:
        """Drops a request wherever it is; nothing happens if it has ended."""
        self._waiting = collections.deque(one for one in self._waiting if one[0] != number)
        self._rows = [None if one and one.number == number else one for one in self._rows]

    def warm_up(self) -> None:
        """Compiles all that requests may need, by serving some, so that no client waits for it."""
        # The shortest prompt of each width that prompts are padded to.
        lengths = {decoder.padded_chunk(n, self._chunk): n for n in range(self.length - 1, 0, -1)}
        requests = [
            Request(prompt=[0] * n, max_tokens=min(2, self.length - n), sampling=how)
            for n in lengths.values()
            for how in (Sampling(), Sampling(top_k=1))
        ]
        eos_ids, self._eos_ids = self._eos_ids, frozenset()  # none may end at its first token
        for request in requests:  # one by one: rows together are all filtered if one of them is
            for _ in self.run([request]):
                pass
        self._eos_ids = eos_ids

    def run(self, requests: Iterable[Request]) -> Iterator[Piece]:
        """Text of all requests as it comes, told apart by their place in `requests`."""
        names = {self.submit(request): place for place, request in enumerate(requests)}
        while not self.is_idle:
            for piece in self.step():
                if piece.request in names:
                    yield piece._replace(request=names[piece.request])

    def step(self) -> list[Piece]:
        """Draws tokens of every running request, and starts what can start."""
        with decoder.on_mesh(self._mesh):
            pieces = self._draw_running()
            for row, running in enumerate(self._rows):
                if running is None and self._waiting:
                    pieces += self._start(row, *self._waiting.popleft())
        return pieces

    def _draw_running(self) -> list[Piece]:
        rows = self._rows
        if not any(rows):
            return []
        how, is_filtered = _sampling_rows(rows)
        drawn_SB, self._cache = decoder.draw(
            self._cfg,
            self._execution,
            self._weights,
            self._cache,
            np.array([one.token if one else 0 for one in rows], np.int32),
            np.array([one.position if one else 0 for one in rows], np.int32),
            how,
            num_tokens=self._tokens_per_step,
            is_filtered=is_filtered,
        )
        pieces = []
        for tokens_B in np.asarray(drawn_SB).tolist():
            pieces += [self._push(row, tokens_B[row]) for row, one in enumerate(self._rows) if one]
        return pieces

    def _start(self, row: int, number: int, request: Request) -> list[Piece]:
        prompt = np.asarray(request.prompt, np.int32)
        logits_V: Array | None = None
        for start in range(0, len(prompt), self._chunk):
            part = prompt[start : start + self._chunk]
            logits_V, self._cache = decoder.prefill(
                self._cfg,
                self._execution,
                self._weights,
                self._cache,
                np.int32(row),
                np.pad(part, (0, decoder.padded_chunk(len(part), self._chunk) - len(part))),
                np.int32(start),
                np.int32(len(part) - 1),
            )
        assert logits_V is not None
        stream = text.TextStream(self._decode, request.stop)
        running = _Running(number, request, stream, position=len(prompt) - 1)
        self._rows[row] = running
        how, is_filtered = _sampling_rows([running])
        token_B = sampling.sample(logits_V[None], how, is_filtered=is_filtered)
        return [self._push(row, int(token_B[0]))]

    def _push(self, row: int, token: int) -> Piece:
        """Books a token of a row, and frees the row if it was the last one."""
        running = self._rows[row]
        assert running is not None
        running.token, running.position = token, running.position + 1
        running.num_drawn += 1
        reason = None
        if token in self._eos_ids:
            reason, new = "stop", running.stream.finish()
        else:
            new = running.stream.push(token)
            if running.stream.is_stopped:
                reason = "stop"
            elif running.num_drawn == running.request.max_tokens:
                reason, new = "length", new + running.stream.finish()
        if reason:
            self._rows[row] = None
        return Piece(running.number, new, token, reason)


def _sampling_rows(rows: Sequence[_Running | None]) -> tuple[sampling.Rows, bool]:
    unused = Sampling(temperature=0.0)
    settings = [one.request.sampling if one else unused for one in rows]
    how = sampling.rows(settings, [one.num_drawn if one else 0 for one in rows])
    return how, sampling.is_filtered(settings)
