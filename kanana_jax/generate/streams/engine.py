"""Spoken streams in turns: some draw tokens and are heard, the others wait with their rows kept.

A turn asks the policy which streams matter most now. New ones among them take a free row, and their
prompts are read; then all of them draw the same number of tokens, which leave as sound at once.

Letters: A streams of a turn.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np

from kanana_jax import config
from kanana_jax.generate import decoder, prompts, sampling
from kanana_jax.generate.requests import RequestError
from kanana_jax.generate.sampling import Sampling
from kanana_jax.generate.streams import device, scheduling
from kanana_jax.generate.streams.scheduling import Policy, Stream
from kanana_jax.generate.unstacked import AnyWeights
from kanana_jax.speech import detokeniser, mel
from kanana_jax.speech.folder import Speaker
from kanana_jax.speech.vocabulary import Vocabulary

_SECONDS_PER_TOKEN = mel.SAMPLES_PER_TOKEN / mel.SAMPLE_RATE
_UNUSED = Sampling(temperature=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Utterance:
    """A text to be said: the ids of the prompt after which codes come.

    Only temperature, min_p and seed of `sampling` count.
    """

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling = dataclasses.field(default_factory=Sampling)


class Sound(NamedTuple):
    """New sound of an utterance; the last one says why it ended."""

    request: int  # the number that `submit` returned
    pcm: bytes  # 16 bits, mono, 16 kHz
    num_tokens: int  # of the speech in it
    finish_reason: Literal["stop", "length"] | None = None


@dataclasses.dataclass
class _Speaking:
    """An utterance from its submission on."""

    asked: Utterance
    stream: Stream
    row: int | None = None
    num_drawn: int = 0
    token: int = 0  # that the decoder reads next

    @property
    def position(self) -> int:
        return len(self.asked.prompt) - 1 + self.num_drawn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What functions are compiled for: `width` of `num_rows` streams draw in a turn."""

    num_rows: int = 64
    width: int = 16
    length: int = 1024  # positions of a row
    chunk: int = 256  # tokens of a prompt read at a time
    prompts_at_once: int = 4
    tokens_per_turn: int = 4

    def __post_init__(self):
        decoder.check_sizes(**vars(self))
        if self.width > self.num_rows:
            raise config.ConfigError(
                f"width must be at most num_rows = {self.num_rows}, got {self.width}"
            )

    @property
    def widths(self) -> list[int]:
        """The numbers of streams per turn that are compiled."""
        return sorted({self.width, *(4**n for n in range(8) if 4**n < self.width)})


class StreamEngine:
    """Speaks many utterances at once. Not for several threads. `clock` gives seconds.

    What a stream says depends on the weights, its prompt and its seed, not on which streams speak
    next to it or when it draws, up to the rounding of sums of another width.
    """

    def __init__(
        self,
        cfg: config.ModelConfig,
        execution: config.ExecutionConfig,
        weights: AnyWeights,
        speaker: Speaker,
        vocabulary: Vocabulary,
        *,
        shape: Shape,
        policy: Policy,
        clock: Callable[[], float] = time.monotonic,
        mesh: jax.sharding.Mesh | None = None,
    ):
        self._cfg, self._execution, self._weights = cfg, execution, weights
        self._speaker, self._vocabulary, self.shape = speaker, vocabulary, shape
        self._policy, self._clock, self._mesh = policy, clock, mesh
        with decoder.on_mesh(mesh):
            self._cache = decoder.init_cache(cfg, execution, shape.num_rows, shape.length)
        self._sounding = detokeniser.begin(speaker.cfg, shape.num_rows)
        self._speaking: dict[int, _Speaking] = {}
        self._free = list(range(shape.num_rows))
        self._numbers = itertools.count()

    @property
    def is_idle(self) -> bool:
        return not self._speaking

    @property
    def num_running(self) -> int:
        return self.shape.num_rows - len(self._free)

    def check(self, request: Utterance) -> None:
        """Raises RequestError when it can never be served; any thread may call it."""
        room = self.shape.length - len(request.prompt)
        if len(request.prompt) < 2 or not 0 < request.max_tokens <= room:
            raise RequestError(
                f"a text and its speech must fit in {self.shape.length} tokens, got "
                f"{len(request.prompt)} and {request.max_tokens}; shorten the text"
            )

    def submit(self, request: Utterance) -> int:
        """Queues an utterance, and returns its number; raises as `check` does."""
        self.check(request)
        number = next(self._numbers)
        self._speaking[number] = _Speaking(request, Stream(number, False), token=request.prompt[-1])
        return number

    def cancel(self, number: int) -> None:
        """Drops an utterance wherever it is; nothing happens if it has ended."""
        dropped = self._speaking.pop(number, None)
        if dropped is not None and dropped.row is not None:
            self._free.append(dropped.row)

    def warm_up(self) -> None:
        """Compiles all that utterances may need, so that no listener waits for it."""
        shape = self.shape
        chunk = min(shape.chunk, shape.length - 2)
        lengths = {decoder.padded_chunk(n, chunk): n for n in range(chunk, 0, -1)}
        for _ in range(2):  # to the compiler, arrays that no function has made yet are different
            for length in lengths.values():
                self._read({0: np.zeros(length, np.int32)})
            for width in shape.widths:
                self._said([], width)

    def step(self) -> list[Sound]:
        """Runs one turn; returns the sound that it made."""
        shape = self.shape
        streams = [one.stream for one in self._speaking.values()]
        turn = scheduling.plan(
            streams, self._clock(), self._policy, width=shape.width, num_free=len(self._free)
        )
        prompts_of = {}
        for one in map(self._speaking.__getitem__, turn.begins):
            one.row = self._free.pop()
            one.stream = one.stream._replace(has_row=True)
            prompts_of[one.row] = np.array(one.asked.prompt[:-1], np.int32)
        if prompts_of:
            self._read(prompts_of)
        drawing = [self._speaking[number] for number in turn.draws]
        width = next((x for x in shape.widths if x >= len(drawing)), shape.width)
        said = self._said(drawing, width)
        now_s = self._clock()
        return [self._book(one, said, place, now_s) for place, one in enumerate(drawing)]

    def _read(self, prompts_of: dict[int, np.ndarray]) -> None:
        shape = self.shape
        for part in prompts.parts(
            prompts_of, chunk=shape.chunk, at_once=shape.prompts_at_once, num_rows=shape.num_rows
        ):
            with decoder.on_mesh(self._mesh):
                _, self._cache, _, _ = decoder.prefill(
                    self._cfg,
                    self._execution,
                    self._weights,
                    self._cache,
                    part.row_N,
                    part.tokens_NS,
                    part.start_N,
                    part.last_N,
                )

    def _said(self, drawing: Sequence[_Speaking], width: int) -> device.Said:
        num_unused = width - len(drawing)
        beyond = range(self.shape.num_rows, self.shape.num_rows + num_unused)
        rows = device.Rows(
            np.array([one.row for one in drawing] + [*beyond], np.int32),
            np.array([one.token for one in drawing] + [0] * num_unused, np.int32),
            np.array([one.position for one in drawing] + [0] * num_unused, np.int32),
            np.array([not one.num_drawn for one in drawing] + [True] * num_unused),
        )
        how = [one.asked.sampling for one in drawing] + [_UNUSED] * num_unused
        with decoder.on_mesh(self._mesh):
            said, self._cache, self._sounding = device.turn(
                self._cfg,
                self._execution,
                self._vocabulary,
                self._weights,
                self._speaker.codec,
                self._cache,
                self._sounding,
                rows,
                sampling.rows(how, [one.num_drawn for one in drawing] + [0] * num_unused),
                num_tokens=self.shape.tokens_per_turn,
            )
        return device.Said(*map(np.asarray, said))

    def _book(self, one: _Speaking, said: device.Said, place: int, now_s: float) -> Sound:
        number, left = one.stream.number, one.asked.max_tokens - one.num_drawn
        num_said = int(said.lengths_A[place])
        is_over = num_said < said.tokens_AN.shape[1] and num_said < left
        num_said = min(num_said, left)
        reason = "stop" if is_over else "length" if num_said == left else None
        pcm = said.sound_AT[place, : num_said * mel.SAMPLES_PER_TOKEN]
        one.num_drawn += num_said
        one.token = int(said.tokens_AN[place, -1])
        began_s = one.stream.began_s
        one.stream = one.stream._replace(
            began_s=now_s if began_s is None and num_said else began_s,
            sound_s=one.stream.sound_s + num_said * _SECONDS_PER_TOKEN,
        )
        if reason:
            self.cancel(number)
        return Sound(number, pcm.astype("<i2").tobytes(), num_said, reason)
