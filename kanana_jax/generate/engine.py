"""Continuous batching: requests wait in a queue and take a row of the cache as one becomes free.

A step draws a few tokens for every running request, then gives waiting requests the free rows and
reads their prompts in chunks; of equal prompts one is read, and its row is copied. Shapes come
from a short list, so few functions are compiled.

Letters: B rows, M tokens of a step, S tokens read, L MoE layers, K experts of a token.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np

from kanana_jax import config
from kanana_jax.errors import UserError
from kanana_jax.generate import decoder, device, features, processors, text
from kanana_jax.generate.logprobs import Logprobs
from kanana_jax.generate.requests import Piece, Request, RequestError
from kanana_jax.generate.running import Anything, Running, forced
from kanana_jax.generate.sampling import Sampling
from kanana_jax.generate.unstacked import AnyWeights


class Engine:
    """Generates for many requests at once. Not for several threads.

    `decode` turns ids into text, `decode_marked` does so with the text of special tokens.

    `num_rows` requests run at a time, each with `length` positions of cache. Prompts are read
    `prompts_at_once` at a time, `chunk` tokens of each. A step draws `tokens_per_step` tokens
    before the host looks at them, or one where a constraint applies. With `with_routes`, pieces say
    which experts tokens went to. `room` is for what a prompt may have besides tokens.

    `weights` are decoding's or training's own. Decoding's are never copied, training's only by each
    call that computes, for as long as it runs. `version` numbers them.

    What a request gets depends only on the weights, its prompt and its seed, not on what runs next
    to it, nor on whether its prompt was read for others too. In float32 on CPUs this holds bit for
    bit where num_rows, and prompts_at_once times the width of a chunk, are at most 16 or multiples
    of 16: for other numbers XLA sums the last rows in another order. With another
    `prompts_at_once`, prompts are read in other shapes, which may change the last bits.
    """

    def __init__(
        self,
        cfg: config.ModelConfig,
        execution: config.ExecutionConfig,
        weights: AnyWeights,
        *,
        decode: Callable[[Sequence[int]], str],
        decode_marked: Callable[[Sequence[int]], str] | None = None,
        eos_ids: Iterable[int],
        num_rows: int = 8,
        length: int = 2048,
        chunk: int = 512,
        tokens_per_step: int = 4,
        prompts_at_once: int = 1,
        with_routes: bool = False,
        room: features.Room = features.NO_ROOM,
        version: int = 0,
        mesh: jax.sharding.Mesh | None = None,
    ):
        shape = device.Shape(
            num_rows=num_rows,
            length=length,
            chunk=chunk,
            tokens_per_step=tokens_per_step,
            prompts_at_once=prompts_at_once,
            with_routes=with_routes,
            room=room,
        )
        self.length, self.version = length, version
        self._device = device.Device(cfg, execution, weights, shape, mesh)
        self._decode, self._decode_marked = decode, decode_marked or decode
        self._eos_ids = frozenset(eos_ids)
        self._vocab_size, self._shape = cfg.vocab_size, shape
        self._rows: list[Running | None] = [None] * num_rows
        self._waiting: collections.deque[Running] = collections.deque()
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

    def update(self, weights: AnyWeights, version: int) -> None:
        """Replaces the weights, without a copy; waiting requests begin under the new ones.

        UserError while requests run: an answer comes from one version. Cancel them and go on with
        `Request.drawn`.
        """
        if self.num_running:
            raise UserError(
                f"weights can be updated when no request runs, got {self.num_running} running; "
                "finish them, or cancel them and submit them again with what they have drawn"
            )
        self._device.weights, self.version = weights, version

    def check(self, request: Request) -> None:
        """Raises RequestError when a request can never be served; any thread may call it."""
        self._begun(0, request)

    def submit(self, request: Request) -> int:
        """Queues a request, and returns its number; raises as `check` does."""
        self._waiting.append(self._begun(self._num_submitted, request))
        self._num_submitted += 1
        return self._num_submitted - 1

    def cancel(self, number: int) -> None:
        """Drops a request wherever it is; nothing happens if it has ended."""
        self._waiting = collections.deque(one for one in self._waiting if one.number != number)
        self._rows = [None if one and one.number == number else one for one in self._rows]

    def warm_up(self) -> None:
        """Compiles all that requests may need, by serving some, so that no client waits for it."""
        # The shortest prompt of each width that prompts are padded to.
        chunk = self._shape.chunk
        lengths = {decoder.padded_chunk(n, chunk): n for n in range(self.length - 1, 0, -1)}
        requests = [
            Request(prompt=[0] * n, max_tokens=min(2, self.length - n), sampling=how)
            for n in lengths.values()
            for how in (Sampling(), Sampling(top_k=1))
        ]
        scored = [
            dataclasses.replace(one, num_top_logprobs=0, has_prompt_logprobs=True)
            for one in requests[::2]
        ]
        anything = Anything(processors.num_words(self._vocab_size))
        requests += [*scored, dataclasses.replace(scored[-1], constraint=lambda: anything)]
        eos_ids, self._eos_ids = self._eos_ids, frozenset()  # none may end at its first token
        # One by one: rows together are all filtered if one of them is. Two for the copy of a row.
        for some in [*([one] for one in requests), requests[:1] * 2]:
            for _ in self.run(some):
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
        return self._draw_running() + self._start_waiting()

    def _begun(self, number: int, request: Request) -> Running:
        room = self.length - len(request.prompt)
        if not len(request.prompt) > 0 or not 0 < request.max_tokens <= room:
            raise RequestError(
                f"prompt and max_tokens must be positive and fit in {self.length} positions, got "
                f"{len(request.prompt)} and {request.max_tokens}; shorten them or raise the length"
            )
        biased = [token for token, _ in request.processors.logit_bias]
        named = (request.prompt, request.drawn, request.stop_ids, biased)
        for ids in map(np.asarray, filter(len, named)):
            if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= self._vocab_size:
                raise RequestError(f"token ids must lie in [0, {self._vocab_size})")
        if request.features is not None:
            features.check(request.features, self._shape.room, len(request.prompt))
        decode = self._decode_marked if request.has_special_tokens else self._decode
        stream = text.TextStream(decode, request.stop)
        for token in request.drawn:
            if not stream.is_stopped:
                stream.push(token)
        running = Running(number, request, stream)
        is_ended = stream.is_stopped or any(
            running.is_end(token, self._eos_ids) for token in request.drawn
        )
        if is_ended or len(request.drawn) >= request.max_tokens:
            raise RequestError(
                f"drawn must be the beginning of an answer of {request.max_tokens} tokens, got "
                f"{len(request.drawn)} tokens of one that has ended; there is no more of it"
            )
        return running

    def _draw_running(self) -> list[Piece]:
        rows = self._rows
        if not any(rows):
            return []
        # What a constraint allows is known only once the token before is.
        is_constrained = any(one and one.matcher for one in rows)
        drawn = self._device.draw(
            np.array([one.token if one else 0 for one in rows], np.int32),
            np.array([one.position if one else 0 for one in rows], np.int32),
            [one.request.sampling if one else device.UNUSED for one in rows],
            [one.num_drawn if one else 0 for one in rows],
            forced(rows, 1 if is_constrained else self._shape.tokens_per_step),
            [one and one.processing(self._eos_ids) for one in rows],
        )
        tokens_MB, logp_MB = drawn.tokens_NB.tolist(), drawn.logp_NB.tolist()
        routes_MBLK = None if drawn.routes_NBLK is None else np.asarray(drawn.routes_NBLK)
        pieces = []
        for place, row in itertools.product(range(len(tokens_MB)), range(len(rows))):
            if rows[row]:
                read_1LK = None if routes_MBLK is None else routes_MBLK[place, row : row + 1]
                found = drawn.logprobs and Logprobs(*(x[place, row] for x in drawn.logprobs))
                logp = logp_MB[place][row]
                pieces += self._push(
                    row, device.Token(tokens_MB[place][row], logp, read_1LK, found)
                )
        return pieces

    def _start_waiting(self) -> list[Piece]:
        starts = {}
        for row, running in enumerate(self._rows):
            if running is None and self._waiting:
                self._rows[row] = one = self._waiting.popleft()
                one.begin()
                starts[row] = device.Start(
                    tuple(one.request.prompt),
                    one.request.sampling,
                    one.processing(self._eos_ids),
                    one.request.has_prompt_logprobs,
                    one.request.features,
                )
        firsts = self._device.start(starts) if starts else {}
        return [piece for row in starts for piece in self._push(row, firsts[row])]

    def _push(self, row: int, drawn: device.Token) -> list[Piece]:
        """Records a token of a row, and frees the row if the token is its last."""
        running = self._rows[row]
        assert running is not None
        if drawn.routes is not None:
            running.routes.append(drawn.routes)
        request, is_forced = running.request, running.is_forced
        token = request.drawn[running.num_drawn] if is_forced else drawn.token
        running.token = token
        running.num_drawn += 1
        reason = running.match(token)
        if is_forced:
            return []
        if running.is_end(token, self._eos_ids):
            reason, new = reason or "stop", running.stream.finish()
        else:
            new = running.stream.push(token)
            if running.stream.is_stopped:
                reason = "stop"
            elif running.num_drawn == request.max_tokens:
                reason = reason or "length"
            if reason:
                new += running.stream.finish()
        if reason:
            self._rows[row] = None
        routes, running.routes = running.routes, []
        piece = Piece(running.number, new, token, reason, drawn.logp, self.version)
        return [
            piece._replace(
                routes=np.concatenate(routes) if routes else None,
                logprobs=None if request.num_top_logprobs is None else drawn.logprobs,
                prompt_logprobs=drawn.prompt_logprobs if request.has_prompt_logprobs else None,
            )
        ]
