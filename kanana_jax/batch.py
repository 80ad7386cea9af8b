"""What a loader hands to the model and to the loss. Arrays of numpy or jax; rows are sequences.

Letters: B sequences, S positions, L MoE layers, K experts of a token.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np


class Inputs(NamedTuple):
    """What a forward pass reads beside the weights."""

    tokens: Any  # (B, S) int32
    positions: Any  # (B, S) int32, counted from the start of each document
    segment_ids: Any  # (B, S) int32: 1, 2, ... number a row's documents, 0 is padding
    # (B, S, L, K) integers: the experts that each token goes to in each MoE layer, as when it was
    # drawn; -1: those that the router chooses. None: the router chooses all.
    routes: Any = None

    @classmethod
    def of_tokens(cls, tokens: Any) -> Self:
        """Every row is one document."""
        shape = np.shape(tokens)
        positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
        return cls(tokens, positions, np.ones(shape, np.int32))


class Batch(NamedTuple):
    """Sequences with what each position is to predict, the same from the loader to the step."""

    tokens: Any  # (B, S) int32
    targets: Any  # (B, S) int32, the token that follows
    positions: Any  # (B, S) int32, counted from the start of each document
    segment_ids: Any  # (B, S) int32: 1, 2, ... number a row's documents, 0 is padding
    loss_mask: Any  # (B, S) float32: 1 where the target counts
    target_bytes: Any  # (B, S) float32: UTF-8 bytes of the target, 0 where it does not count
    # Further columns (B, S) float32 that an objective reads, by name; `Objective.columns` has them.
    # Of a stored teacher (B, S, K); `soft_targets.Divergence.columns` has those.
    extra: Mapping[str, Any] = {}
    routes: Any = None  # see `Inputs`

    @classmethod
    def of_tokens(cls, tokens: Any) -> Self:
        """From (B, S + 1) token ids: each row is one document of which every token is a target."""
        tokens = np.asarray(tokens)
        inputs = Inputs.of_tokens(tokens[:, :-1])
        ones = np.ones(inputs.tokens.shape, np.float32)
        return cls(inputs.tokens, tokens[:, 1:], inputs.positions, inputs.segment_ids, ones, ones)

    @classmethod
    def stacked(cls, rows: Sequence[Self]) -> Self:
        """One batch of rows, whose columns are (S,) and have the same names."""
        return cls._joined(np.stack, rows)

    @classmethod
    def concatenated(cls, *batches: Self) -> Self:
        """The rows of all batches, whose columns have the same names."""
        return cls._joined(np.concatenate, batches)

    @classmethod
    def _joined(cls, join: Callable[[Sequence[Any]], Any], parts: Sequence[Self]) -> Self:
        *columns, extras, routes = zip(*parts, strict=True)
        extra = {name: join([extra[name] for extra in extras]) for name in extras[0]}
        replayed = None if routes[0] is None else join(routes)
        return cls(*map(join, columns), extra=extra, routes=replayed)

    def map(self, fn: Callable[[Any], Any]) -> Self:
        """`fn` of every column."""
        *columns, extra, routes = self
        mapped = {name: fn(column) for name, column in extra.items()}
        replayed = None if routes is None else fn(routes)
        return type(self)(*map(fn, columns), extra=mapped, routes=replayed)

    @property
    def inputs(self) -> Inputs:
        return Inputs(self.tokens, self.positions, self.segment_ids, self.routes)
