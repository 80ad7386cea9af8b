"""Continuous batching: requests wait in a queue and take a row of the cache as one gets free.

A step gives every waiting request a free row, reads its prompt in chunks of one size, and draws
one token for every running request. Shapes never change, so two functions are compiled in all.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kanana_jax import config
from kanana_jax.generate import decoder, sampling, text
from kanana_jax.generate.sampling import Sampling


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
    """Generates for many requests at once; `decode` turns ids into text."""

    def __init__(
        self,
        cfg: config.ModelConfig,
        weights: Any,
        *,
        decode: Any,
        eos_ids: Iterable[int],
        num_rows: int = 8,
        length: int = 2048,
        chunk: int = 128,
    ):
        if num_rows < 1:
            raise ValueError(f"num_rows must be positive, got {num_rows}")
        if length % chunk:
            raise ValueError(f"length must be a multiple of chunk = {chunk}, got {length}")
        self._cfg, self._weights = cfg, weights
        self._decode, self._eos_ids = decode, frozenset(eos_ids)
        self._length, self._chunk = length, chunk
        self._cache = decoder.init_cache(cfg, num_rows, length)
        self._rows: list[_Running | None] = [None] * num_rows
        self._waiting: collections.deque[tuple[int, Request]] = collections.deque()
        self._num_submitted = 0

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not any(self._rows)

    def submit(self, request: Request) -> int:
        """Queues a request; ValueError when it can never fit."""
        room = self._length - len(request.prompt)
        if not len(request.prompt) > 0 or not 0 < request.max_tokens <= room:
            raise ValueError(
                f"prompt and max_tokens must be positive and fit in {self._length} positions, got "
                f"{len(request.prompt)} and {request.max_tokens}; shorten them or raise the length"
            )
        if not all(0 <= token < self._cfg.vocab_size for token in request.prompt):
            raise ValueError(f"prompt ids must lie in [0, {self._cfg.vocab_size})")
        self._num_submitted += 1
        self._waiting.append((self._num_submitted - 1, request))
        return self._num_submitted - 1

    def run(self, requests: Iterable[Request]) -> Iterator[Piece]:
        """Text of all requests as it comes, told apart by their place in `requests`."""
        names = {self.submit(request): place for place, request in enumerate(requests)}
        while not self.is_idle:
            for piece in self.step():
                if piece.request in names:
                    yield piece._replace(request=names[piece.request])

    def step(self) -> list[Piece]:
        """Starts what can start, and draws one token of every running request."""
        pieces = self._draw_running()
        for row, running in enumerate(self._rows):
            if running is None and self._waiting:
                pieces += self._start(row, *self._waiting.popleft())
        return pieces

    def _draw_running(self) -> list[Piece]:
        rows = self._rows
        if not any(rows):
            return []
        tokens = np.array([one.token if one else 0 for one in rows], np.int32)
        positions = np.array([one.position if one else 0 for one in rows], np.int32)
        logits_BV, self._cache = decoder.decode(
            self._cfg, self._weights, self._cache, tokens, positions
        )
        drawn = self._sample(logits_BV, rows)
        return [self._push(row, int(drawn[row])) for row, one in enumerate(rows) if one]

    def _start(self, row: int, number: int, request: Request) -> list[Piece]:
        prompt = np.asarray(request.prompt, np.int32)
        logits_V = None
        for start in range(0, len(prompt), self._chunk):
            part = prompt[start : start + self._chunk]
            padded = np.pad(part, (0, self._chunk - len(part)))
            logits_V, self._cache = decoder.prefill(
                self._cfg,
                self._weights,
                self._cache,
                jnp.int32(row),
                padded,
                jnp.int32(start),
                jnp.int32(len(part) - 1),
            )
        stream = text.TextStream(self._decode, request.stop)
        running = _Running(number, request, stream, position=len(prompt) - 1)
        self._rows[row] = running
        assert logits_V is not None
        return [self._push(row, int(self._sample(logits_V[None], [running])[0]))]

    def _sample(self, logits_BV: Array, rows: Sequence[_Running | None]) -> np.ndarray:
        unused = Sampling(temperature=0.0)
        how = sampling.rows(
            [one.request.sampling if one else unused for one in rows],
            [one.num_drawn if one else 0 for one in rows],
        )
        return np.asarray(sampling.sample(logits_BV, how))

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
