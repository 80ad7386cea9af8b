"""What a loader hands to the model and to the loss. Arrays of numpy or jax; rows are sequences.

Letters: B sequences, S positions, L MoE layers, K experts of a token; P patches, C numbers of one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np


class Images(NamedTuple):
    """The patches of the images of each row, and which positions they stand at.

    The patches of a square that a projector merges into one position lie together, the squares row
    by row, the images one after the other. So slot n of a row is made of its n-th square.
    """

    pixels: Any  # (B, P, C) uint8, channel by channel
    places: Any  # (B, P, 4) int32: row and column in the image's grid; its rows and columns
    image_ids: Any  # (B, P) int32: 1, 2, ... number a row's images, 0 is padding
    slots: Any  # (B, S) int32: the slot that stands at a position; -1: a token does


class Sounds(NamedTuple):
    """The sounds of each row as log-mel frames, and which positions they stand at.

    Each has room for the same number of frames, which an encoder makes into the same number of
    slots; a row's slots are numbered one sound after the other.
    """

    frames: Any  # (B, N, F, M) float16: N sounds of F frames of M bands
    num_frames: Any  # (B, N) int32, those that are of the sound; 0: there is none
    slots: Any  # (B, S) int32: the slot that stands at a position; -1: a token does


Features = Images | Sounds


class Inputs(NamedTuple):
    """What a forward pass reads besides the weights."""

    tokens: Any  # (B, S) int32
    positions: Any  # (B, S) int32, counted from the start of each document
    segment_ids: Any  # (B, S) int32: 1, 2, ... number a row's documents, 0 is padding
    # (B, S, L, K) integers: the experts that each token goes to in each MoE layer, as when it was
    # drawn; -1: those that the router chooses. None: the router chooses all.
    routes: Any = None
    features: Features | None = None  # what stands in the place of tokens; None: nothing does

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
    # Those of a stored teacher are (B, S, K); `soft_targets.Divergence.columns` has them.
    extra: Mapping[str, Any] = {}
    routes: Any = None  # see `Inputs`
    features: Features | None = None  # see `Inputs`

    @classmethod
    def of_tokens(cls, tokens: Any) -> Self:
        """From (B, S + 1) token ids: each row is one document, and every token is a target."""
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
        *columns, extras, routes, features = zip(*parts, strict=True)
        extra = {name: join([extra[name] for extra in extras]) for name in extras[0]}
        replayed = None if routes[0] is None else join(routes)
        inserted = None
        if features[0] is not None:
            inserted = type(features[0])(*map(join, zip(*features, strict=True)))
        return cls(*map(join, columns), extra=extra, routes=replayed, features=inserted)

    def map(self, fn: Callable[[Any], Any]) -> Self:
        """Applies `fn` to every column."""
        *columns, extra, routes, features = self
        mapped = {name: fn(column) for name, column in extra.items()}
        replayed = None if routes is None else fn(routes)
        inserted = None if features is None else type(features)(*map(fn, features))
        return type(self)(*map(fn, columns), extra=mapped, routes=replayed, features=inserted)

    @property
    def inputs(self) -> Inputs:
        return Inputs(self.tokens, self.positions, self.segment_ids, self.routes, self.features)
