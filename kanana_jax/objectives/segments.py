"""Reductions over the segments of rows, and back to their positions.

Letters: B sequences, S positions, G segments of a row with padding as 0.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from kanana_jax.batch import Batch


def reduced(
    reduce: Callable[..., Array], value_BS: Shaped[Array, "B S"], batch: Batch
) -> Shaped[Array, "B G"]:
    """`reduce`, such as jax.ops.segment_sum, over the positions of every segment."""
    # Each segment has a position, so a row of S has at most S of them, and padding.
    return jax.vmap(
        lambda value_S, segment_S: reduce(value_S, segment_S, num_segments=value_S.size + 1)
    )(value_BS, jnp.asarray(batch.segment_ids))


def at_positions(value_BG: Shaped[Array, "B G"], batch: Batch) -> Shaped[Array, "B S"]:
    """At every position, the number of its own segment."""
    return jnp.take_along_axis(value_BG, jnp.asarray(batch.segment_ids), axis=1)


def sums(value_BS: Float[Array, "B S"], batch: Batch) -> Float[Array, "B S"]:
    """At every position, the sum over its own segment. What does not count must be 0 already."""
    return at_positions(reduced(jax.ops.segment_sum, value_BS, batch), batch)
