"""The device's side of an engine: weights, cache, and the compiled functions that work on them.

Prompts that start together are read several at a time; of equal prompts only one is read, and its
cache row is copied. All results lie on the host.

Letters: B rows, N prompts read at once, M tokens of a step, V vocabulary, S tokens read, L MoE
layers, K experts of a token.
"""

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from kanana_jax import config, model
from kanana_jax.generate import decoder, features, processors, prompts, sampling
from kanana_jax.generate.decoder import Drawn
from kanana_jax.generate.logprobs import Logprobs
from kanana_jax.generate.processors import NOTHING, Processors
from kanana_jax.generate.sampling import Sampling
from kanana_jax.generate.unstacked import AnyWeights

# For rows that draw nothing.
UNUSED = Sampling(temperature=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What functions are compiled for, besides the model."""

    num_rows: int
    length: int  # positions of a row
    chunk: int  # tokens of a prompt read at a time
    tokens_per_step: int
    prompts_at_once: int
    with_routes: bool
    room: features.Room = features.NO_ROOM

    def __post_init__(self):
        others = ("with_routes", "room")
        sizes = {name: value for name, value in vars(self).items() if name not in others}
        decoder.check_sizes(**sizes)


class Processing(NamedTuple):
    """How the next token of a row is processed."""

    processors: Processors
    end_ids: frozenset[int]
    allowed: Callable[[], UInt32[np.ndarray, "W"]] | None  # by a constraint; None: all
    has_logprobs: bool


class Start(NamedTuple):
    prompt: tuple[int, ...]
    sampling: Sampling
    processing: Processing | None = None
    has_prompt_logprobs: bool = False
    features: model.Features | None = None  # as in `Request`

    @property
    def read(self) -> tuple[tuple[int, ...], bytes]:
        """A key that is equal for prompts with equal tokens and features."""
        if self.features is None:
            return self.prompt, b""
        total = hashlib.blake2b(digest_size=16)
        for x in self.features:
            total.update(repr(x.shape).encode() + np.ascontiguousarray(x).tobytes())
        return self.prompt, total.digest()


class Token(NamedTuple):
    """A token that was drawn for a row."""

    token: int
    logp: float
    routes: Int[np.ndarray, "S L K"] | None  # of what was read to draw it
    logprobs: Logprobs | None
    prompt_logprobs: Logprobs | None = None  # after a prompt, of its tokens but the first


class Device:
    """Serves the calls of one engine in turn; `weights` may be replaced between them."""

    def __init__(
        self,
        cfg: config.ModelConfig,
        execution: config.ExecutionConfig,
        weights: AnyWeights,
        shape: Shape,
        mesh: jax.sharding.Mesh | None,
    ):
        self.weights = weights
        self._cfg, self._execution, self._shape, self._mesh = cfg, execution, shape, mesh
        with decoder.on_mesh(mesh):
            self._cache = decoder.init_cache(cfg, execution, shape.num_rows, shape.length)
        self._state: processors.State | None = None  # until the first row is processed

    def draw(
        self,
        tokens_B: Int[np.ndarray, "B"],
        positions_B: Int[np.ndarray, "B"],
        how: Sequence[Sampling],
        num_drawn: Sequence[int],
        forced_MB: Int[np.ndarray, "M B"],
        processing: Sequence[Processing | None],
    ) -> Drawn:
        """The next tokens of all rows; see `decoder.draw`. One per row where any is constrained."""
        is_processed = any(one is not None for one in processing)
        if any(one and one.allowed for one in processing):
            (forced_B,) = forced_MB
            sampled = sampling.rows(how, num_drawn)
            return self._draw_constrained(tokens_B, positions_B, sampled, forced_B, processing)
        with decoder.on_mesh(self._mesh):
            drawn, self._cache, state = decoder.draw(
                self._cfg,
                self._execution,
                self.weights,
                self._cache,
                tokens_B,
                positions_B,
                sampling.rows(how, num_drawn),
                forced_MB,
                self._state if is_processed else None,
                self._rows(processing) if is_processed else None,
                is_filtered=is_processed or sampling.is_filtered(how),
                with_routes=self._shape.with_routes,
            )
        self._state = state if is_processed else self._state
        return jax.tree.map(np.asarray, drawn)

    def _draw_constrained(
        self,
        tokens_B: Int[np.ndarray, "B"],
        positions_B: Int[np.ndarray, "B"],
        sampled: sampling.Rows,
        forced_B: Int[np.ndarray, "B"],
        processing: Sequence[Processing | None],
    ) -> Drawn:
        assert self._state is not None
        with decoder.on_mesh(self._mesh):
            logits_BV, self._cache, routes_BLK = decoder.decode(
                self._cfg, self._execution, self.weights, self._cache, tokens_B, positions_B
            )
            # While the device computes, the host asks the constraints.
            allowed = self._rows(processing)
            token_B, logp_B, found, self._state = processors.draw(
                logits_BV, tokens_B, self._state, allowed, sampled, forced_B
            )
        routes_BLK = routes_BLK if self._shape.with_routes else None
        of_step = Drawn(token_B, logp_B, routes_BLK, found)
        return jax.tree.map(lambda x_B: np.asarray(x_B)[None], of_step)

    def start(self, starts: Mapping[int, Start]) -> dict[int, Token]:
        """Reads prompts into these rows of the cache, and draws the first token of each."""
        read_by = {row: one.read for row, one in starts.items()}
        readers: dict[Any, int] = {}  # by prompt and features: the row that they are read into
        sharers = collections.defaultdict(list)  # by that row: all rows of this prompt
        for row, key in read_by.items():
            sharers[readers.setdefault(key, row)].append(row)
        scored = {readers[read_by[row]] for row, one in starts.items() if one.has_prompt_logprobs}
        read, drawn = collections.defaultdict(list), []
        with decoder.on_mesh(self._mesh):
            self._begin(starts)
            for part, logits_NV, routes_NSLK, found in self._read(
                {row: starts[row] for row in readers.values()}, scored
            ):
                ended = []
                for place, reader in enumerate(part.rows):
                    read[reader].append(_Read(place, part.lengths[place], routes_NSLK, found))
                    if part.is_end[place]:
                        ended += [(place, row) for row in sharers[reader]]
                drawn += self._draw_first(logits_NV, ended, starts)
            self._copy([(rows[0], row) for rows in sharers.values() for row in rows[1:]])
        of_prompts = {reader: (_routes(parts), _logprobs(parts)) for reader, parts in read.items()}
        firsts = {}
        for rows, *on_device in drawn:
            tokens, logps, found = jax.tree.map(np.asarray, on_device)
            for place, row in enumerate(rows):
                routes, prompt_logprobs = of_prompts[readers[read_by[row]]]
                of_token = found and Logprobs(*(x[place] for x in found))
                firsts[row] = Token(
                    int(tokens[place]), float(logps[place]), routes, of_token, prompt_logprobs
                )
        return firsts

    def _begin(self, starts: Mapping[int, Start]) -> None:
        """Sets the state that processed rows need from their requests."""
        for row, one in starts.items():
            if one.processing is None:
                continue
            if self._state is None:
                self._state = processors.init(self._shape.num_rows, self._cfg.vocab_size)
            how, ends = one.processing.processors, one.processing.end_ids
            self._state = processors.begin(self._state, row, how, one.prompt, ends)

    def _rows(self, processing: Sequence[Processing | None]) -> processors.Rows:
        return processors.rows(
            [one.processors if one else NOTHING for one in processing],
            [one.allowed() if one and one.allowed else None for one in processing],
            self._cfg.vocab_size,
            has_logprobs=any(one and one.has_logprobs for one in processing),
        )

    def _read(
        self, readers: Mapping[int, Start], scored: Set[int]
    ) -> Iterator[tuple[prompts.Part, Array, Array | None, Logprobs | None]]:
        """Parts of these prompts, each with the logits after it, the experts of its tokens and, for
        the rows `scored`, the log-probabilities of the tokens that follow them."""
        shape = self._shape
        by_row = {row: np.array(one.prompt, np.int32) for row, one in readers.items()}
        encoded = self._encode(readers)
        for part in prompts.parts(
            by_row, chunk=shape.chunk, at_once=shape.prompts_at_once, num_rows=shape.num_rows
        ):
            is_scored = not scored.isdisjoint(part.rows)
            logits_NV, self._cache, routes_NSLK, found = decoder.prefill(
                self._cfg,
                self._execution,
                self.weights,
                self._cache,
                part.row_N,
                part.tokens_NS,
                part.start_N,
                part.last_N,
                prompts.targets(part, by_row) if is_scored else None,
                _inserted(part, encoded, shape.prompts_at_once),
                with_routes=shape.with_routes,
            )
            yield part, logits_NV, routes_NSLK, found

    def _encode(self, readers: Mapping[int, Start]) -> dict[int, "_Encoded"]:
        """Encodes the features of each prompt that has some, N prompts at a time."""
        by_kind = collections.defaultdict(list)
        for row, one in readers.items():
            if one.features is not None:
                by_kind[type(one.features)].append((row, one.features))
        found, size = {}, self._shape.prompts_at_once
        for kind, of_kind in by_kind.items():
            for few in itertools.batched(of_kind, size):
                rows = [features.padded(one, self._shape.room) for _, one in few]
                rows += [jax.tree.map(np.zeros_like, rows[0])] * (size - len(few))
                stacked = kind(*map(np.stack, zip(*rows, strict=True)))
                slots_NMD = decoder.encode(self._cfg, self._execution, self.weights, stacked)
                for place, (row, one) in enumerate(few):
                    found[row] = _Encoded(slots_NMD[place], np.asarray(one.slots))
        return found

    def _draw_first(
        self,
        logits_NV: Float[Array, "N V"],
        ended: Sequence[tuple[int, int]],
        starts: Mapping[int, Start],
    ) -> Iterator[tuple[list[int], Array, Array, Logprobs | None]]:
        """First tokens of rows, each from the logits at a place; N rows at a time."""
        size = self._shape.prompts_at_once
        for few in itertools.batched(ended, size):
            places, rows = map(list, zip(*few, strict=True))
            num_unused = size - len(few)
            how = [starts[row].sampling for row in rows] + [UNUSED] * num_unused
            sampled = sampling.rows(how, [0] * size)
            place_N = np.array(places + [0] * num_unused, np.int32)
            processing = [starts[row].processing for row in rows] + [None] * num_unused
            if self._state is None or not any(processing):
                token_N, logp_N = sampling.sample(
                    logits_NV, sampled, place_N, is_filtered=sampling.is_filtered(how)
                )
                found = None
            else:
                row_N = np.array(rows + [0] * num_unused, np.int32)
                token_N, logp_N, found = processors.sample_first(
                    logits_NV, place_N, self._state, row_N, self._rows(processing), sampled
                )
            yield rows, token_N, logp_N, found

    def _copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies rows of the cache, each from one that is not overwritten here."""
        if pairs:
            ends = np.zeros((2, self._shape.num_rows), np.int32)
            ends[:, : len(pairs)] = np.transpose(pairs)
            self._cache = decoder.copy_rows(self._cache, *ends, np.int32(len(pairs)))


class _Encoded(NamedTuple):
    """What stands in place of some of a prompt's tokens."""

    slots_MD: Float[Array, "M D"]
    slots_T: Int[np.ndarray, "T"]


def _inserted(
    part: prompts.Part, encoded: Mapping[int, _Encoded], num_rows: int
) -> decoder.Inserted | None:
    """What stands in place of a part's tokens; None where no prompt in it has features."""
    some = next((encoded[row] for row in part.rows if row in encoded), None)
    if some is None:
        return None
    none = jnp.zeros_like(some.slots_MD)
    rows = [encoded[row].slots_MD if row in encoded else none for row in part.rows]
    slots_NS = prompts.slots(part, {row: one.slots_T for row, one in encoded.items()})
    return decoder.Inserted(jnp.stack(rows + [none] * (num_rows - len(rows))), slots_NS)


class _Read(NamedTuple):
    """A prompt's chunk: its place among those read with it, and what is known of it."""

    place: int
    length: int
    routes_NSLK: Array | None
    logprobs: Logprobs | None


def _routes(parts: Sequence[_Read]) -> Int[np.ndarray, "S L K"] | None:
    """The experts of a prompt's tokens."""
    found = [
        np.asarray(one.routes_NSLK)[one.place, : one.length]
        for one in parts
        if one.routes_NSLK is not None
    ]
    return np.concatenate(found) if found else None


def _logprobs(parts: Sequence[_Read]) -> Logprobs | None:
    """The log-probabilities of a prompt's tokens but the first, which nothing precedes."""
    found = [
        [np.asarray(x)[one.place, : one.length] for x in one.logprobs]
        for one in parts
        if one.logprobs is not None
    ]
    return (
        Logprobs(*(np.concatenate(xs)[:-1] for xs in zip(*found, strict=True))) if found else None
    )
