"""What a loader hands to the model and to the loss. Arrays of numpy or jax; rows are sequences.

Letters: B sequences, S positions.
"""

from typing import Any, NamedTuple, Self

import numpy as np


class Inputs(NamedTuple):
    """What a forward pass reads beside the weights."""

    tokens: Any  # (B, S) int32
    positions: Any  # (B, S) int32, counted from the start of each document
    segment_ids: Any  # (B, S) int32: 1, 2, ... number a row's documents, 0 is padding

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

    @classmethod
    def of_tokens(cls, tokens: Any) -> Self:
        """From (B, S + 1) token ids: each row is one document of which every token is a target."""
        tokens = np.asarray(tokens)
        inputs = Inputs.of_tokens(tokens[:, :-1])
        ones = np.ones(inputs.tokens.shape, np.float32)
        return cls(inputs.tokens, tokens[:, 1:], inputs.positions, inputs.segment_ids, ones, ones)

    @property
    def inputs(self) -> Inputs:
        return Inputs(self.tokens, self.positions, self.segment_ids)
