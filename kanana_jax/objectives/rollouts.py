"""Rollouts in a batch: which tokens count, and what a token weighs in the loss.

A rollout is a segment. `Batch.loss_mask` is 1 on what the model drew, in one run of tokens or, over
several turns, in many. Rows where the column "stored" is 1 hold stored data, the others rollouts;
a batch without the column has rollouts only.

    token      1 / tokens                                every token weighs the same
    sequence   1 / tokens of its rollout / rollouts      every rollout weighs the same
    constant   1 / (length * rollouts)                   the same, and no mean over a random number

The counts are over the whole batch, so micro-batches and devices add up.
Letters: B sequences, S positions.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kanana_jax.batch import Batch
from kanana_jax.objectives import segments

Aggregation = Literal["token", "sequence", "constant"]


class Totals(NamedTuple):
    """Counts of a whole batch, each at least 1, so that it can divide."""

    tokens: Float[Array, ""]  # drawn ones
    rollouts: Float[Array, ""]  # that have drawn tokens
    stored: Float[Array, ""]  # targets of stored data

    def means(
        self, of_tokens: Mapping[str, Array], is_drawn_BS: Bool[Array, "B S"]
    ) -> dict[str, Float[Array, ""]]:
        """The sums over the drawn tokens here, divided by the drawn tokens of the whole batch."""
        return {
            name: jnp.sum(jnp.where(is_drawn_BS, value_BS, 0.0)) / self.tokens
            for name, value_BS in of_tokens.items()
        }


def is_drawn(batch: Batch) -> Bool[Array, "B S"]:
    """Whether the model drew the target."""
    is_target_BS = jnp.asarray(batch.loss_mask) > 0
    if "stored" not in batch.extra:
        return is_target_BS
    return is_target_BS & (jnp.asarray(batch.extra["stored"]) == 0)


def is_stored(batch: Batch) -> Bool[Array, "B S"]:
    """Whether it is a target of stored data."""
    return (jnp.asarray(batch.loss_mask) > 0) & ~is_drawn(batch)


def totals(batch: Batch) -> Totals:
    """Counts over the whole batch."""
    drawn_BS = is_drawn(batch).astype(jnp.float32)
    per_rollout_BG = segments.reduced(jax.ops.segment_sum, drawn_BS, batch)
    counts = jnp.sum(drawn_BS), jnp.sum(per_rollout_BG > 0), jnp.sum(is_stored(batch))
    return Totals(*(jnp.maximum(count.astype(jnp.float32), 1.0) for count in counts))


def check(aggregation: str, constant_length: int | None) -> None:
    """ValueError where there is no such aggregation, or where the length does not fit it."""
    if aggregation not in ("token", "sequence", "constant"):
        raise ValueError(f"aggregation must be token, sequence or constant, got {aggregation!r}")
    if (aggregation == "constant") != (constant_length is not None):
        raise ValueError(
            "the aggregation 'constant' needs a constant_length, and no other takes one; got "
            f"{aggregation!r} and {constant_length}"
        )
    if constant_length is not None and constant_length < 1:
        raise ValueError(
            f"constant_length must be a number of tokens from 1, got {constant_length}; "
            "the longest that a rollout may become is usual"
        )


def weights(
    aggregation: Aggregation,
    constant_length: int | None,
    lengths_BS: Float[Array, "B S"],
    totals: Totals,
) -> Float[Array, "B S"]:
    """The weight of a drawn token; `lengths_BS` counts the drawn tokens of its own rollout."""
    if aggregation == "token":
        return jnp.ones_like(lengths_BS) / totals.tokens
    per_rollout_BS = lengths_BS if constant_length is None else constant_length
    return jnp.ones_like(lengths_BS) / (per_rollout_BS * totals.rollouts)
