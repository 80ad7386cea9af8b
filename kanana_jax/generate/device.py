"""The device's side of an engine: weights, cache, and the compiled functions that work on them.

Prompts that start together are read several at a time; of equal ones one is read, and its row of
the cache copied. All that is handed out lies on the host.

Letters: B rows, N prompts read at once, M tokens of a step, V vocabulary, S tokens read, L MoE
layers, K experts of a token.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from kanana_jax import config
from kanana_jax.generate import decoder, prompts, sampling
from kanana_jax.generate.decoder import Drawn
from kanana_jax.generate.sampling import Sampling
from kanana_jax.generate.unstacked import AnyWeights

# Of rows that draw nothing.
UNUSED = Sampling(temperature=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What functions are compiled for, beside the model."""

    num_rows: int
    length: int  # positions of a row
    chunk: int  # tokens of a prompt read at a time
    tokens_per_step: int
    prompts_at_once: int
    with_routes: bool

    def __post_init__(self):
        sizes = {name: value for name, value in vars(self).items() if name != "with_routes"}
        decoder.check_sizes(**sizes)


class Start(NamedTuple):
    prompt: tuple[int, ...]
    sampling: Sampling


class First(NamedTuple):
    """The first token after a prompt."""

    token: int
    logp: float
    routes: Int[np.ndarray, "S L K"] | None  # of the prompt


class Device:
    """Calls of one engine, one after the other; `weights` may be replaced between them."""

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

    def draw(
        self,
        tokens_B: Int[np.ndarray, "B"],
        positions_B: Int[np.ndarray, "B"],
        how: Sequence[Sampling],
        num_drawn: Sequence[int],
        forced_MB: Int[np.ndarray, "M B"],
    ) -> Drawn:
        """The next tokens of all rows; see `decoder.draw`."""
        with decoder.on_mesh(self._mesh):
            drawn, self._cache = decoder.draw(
                self._cfg,
                self._execution,
                self.weights,
                self._cache,
                tokens_B,
                positions_B,
                sampling.rows(how, num_drawn),
                forced_MB,
                is_filtered=sampling.is_filtered(how),
                with_routes=self._shape.with_routes,
            )
        return jax.tree.map(np.asarray, drawn)

    def start(self, starts: Mapping[int, Start]) -> dict[int, First]:
        """Reads prompts into these rows of the cache, and draws the first token of each."""
        readers: dict[tuple[int, ...], int] = {}  # by prompt: the row that it is read into
        sharers = collections.defaultdict(list)  # by that row: all rows of this prompt
        for row, one in starts.items():
            sharers[readers.setdefault(one.prompt, row)].append(row)
        routes, drawn = collections.defaultdict(list), []
        with decoder.on_mesh(self._mesh):
            for part, logits_NV, routes_NSLK in self._read(readers):
                ended = []
                for place, reader in enumerate(part.rows):
                    if routes_NSLK is not None:
                        routes[reader].append((routes_NSLK, place, part.lengths[place]))
                    if part.is_end[place]:
                        ended += [(place, row) for row in sharers[reader]]
                drawn += self._draw_first(logits_NV, ended, starts)
            self._copy([(rows[0], row) for rows in sharers.values() for row in rows[1:]])
        read = {row: _joined(routes[rows[0]]) for rows in sharers.values() for row in rows}
        return {
            row: First(token, logp, read[row])
            for rows, tokens_N, logp_N in drawn
            for row, token, logp in zip(
                rows, np.asarray(tokens_N).tolist(), np.asarray(logp_N).tolist(), strict=False
            )
        }

    def _read(
        self, readers: Mapping[tuple[int, ...], int]
    ) -> Iterator[tuple[prompts.Part, Array, Array | None]]:
        """Parts of these prompts; the logits after each, and the experts of its tokens."""
        shape = self._shape
        for part in prompts.parts(
            {row: np.array(prompt, np.int32) for prompt, row in readers.items()},
            chunk=shape.chunk,
            at_once=shape.prompts_at_once,
            num_rows=shape.num_rows,
        ):
            logits_NV, self._cache, routes_NSLK = decoder.prefill(
                self._cfg,
                self._execution,
                self.weights,
                self._cache,
                part.row_N,
                part.tokens_NS,
                part.start_N,
                part.last_N,
                with_routes=shape.with_routes,
            )
            yield part, logits_NV, routes_NSLK

    def _draw_first(
        self,
        logits_NV: Float[Array, "N V"],
        ended: Sequence[tuple[int, int]],
        starts: Mapping[int, Start],
    ) -> Iterator[tuple[list[int], Array, Array]]:
        """First tokens of rows, each from the logits at a place; N rows at a time."""
        size = self._shape.prompts_at_once
        for few in itertools.batched(ended, size):
            places, rows = map(list, zip(*few, strict=True))
            num_unused = size - len(few)
            how = [starts[row].sampling for row in rows] + [UNUSED] * num_unused
            token_N, logp_N = sampling.sample(
                logits_NV,
                sampling.rows(how, [0] * size),
                np.array(places + [0] * num_unused, np.int32),
                is_filtered=sampling.is_filtered(how),
            )
            yield rows, token_N, logp_N

    def _copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Rows of the cache, each from one that is not overwritten here."""
        if pairs:
            ends = np.zeros((2, self._shape.num_rows), np.int32)
            ends[:, : len(pairs)] = np.transpose(pairs)
            self._cache = decoder.copy_rows(self._cache, *ends, np.int32(len(pairs)))


def _joined(parts: Sequence[tuple[Array, int, int]]) -> Int[np.ndarray, "S L K"] | None:
    """The experts of a prompt's tokens from (experts of several prompts, its place, tokens)."""
    if not parts:
        return None
    return np.concatenate([np.asarray(found)[place, :length] for found, place, length in parts])
