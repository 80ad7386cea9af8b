"""Pairs of answers in a batch: one number per answer, and back to its positions.

Pair k = 1, 2, ... of a row is segment 2k - 1, with the chosen answer, and segment 2k, with the
rejected one; `Batch.loss_mask` is 1 on the answers. A row holds whole pairs, so rows can be cut
into micro-batches and spread over devices.

Letters: B sequences, S positions, G segments of a row with padding as 0, K pairs that fit in a row.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kanana_jax.batch import Batch
from kanana_jax.objectives import segments


class Pairs(NamedTuple):
    """One number for each answer of every pair; 0 where there is no pair."""

    is_pair_BK: Bool[Array, "B K"]
    chosen_BK: Float[Array, "B K"]
    rejected_BK: Float[Array, "B K"]

    @property
    def margin_BK(self) -> Float[Array, "B K"]:
        return self.chosen_BK - self.rejected_BK


def count(batch: Batch) -> Float[Array, ""]:
    """The pairs of a batch, at least 1, so that it can divide."""
    return jnp.maximum(jnp.sum(_of_rows(batch)).astype(jnp.float32), 1.0)


def sums(value_BS: Float[Array, "B S"], batch: Batch) -> Pairs:
    """The sum of each answer's values. `value_BS` must already be 0 where it does not count."""
    sum_BG = segments.reduced(jax.ops.segment_sum, value_BS, batch)
    num_pairs = value_BS.shape[1] // 2
    is_pair_BK = jnp.arange(num_pairs) < _of_rows(batch)[:, None]
    chosen_BK, rejected_BK = (
        jnp.where(is_pair_BK, sum_BG[:, first : 2 * num_pairs + 1 : 2], 0.0) for first in (1, 2)
    )
    return Pairs(is_pair_BK, chosen_BK, rejected_BK)


def shares(batch: Batch) -> Float[Array, "B S"]:
    """At every target 1 / targets of its answer, 0 elsewhere: sums weighted by it are means."""
    mask_BS = jnp.asarray(batch.loss_mask)
    return mask_BS / jnp.maximum(segments.sums(mask_BS, batch), 1.0)


def ends(batch: Batch) -> Float[Array, "B S"]:
    """1 at the last target of every answer, 0 elsewhere."""
    mask_BS = jnp.asarray(batch.loss_mask)
    place_BS = jnp.where(mask_BS > 0, jnp.arange(mask_BS.shape[1]), -1)
    last_BG = segments.reduced(jax.ops.segment_max, place_BS, batch)
    last_BS = segments.at_positions(last_BG, batch)
    return jnp.where((mask_BS > 0) & (place_BS == last_BS), 1.0, 0.0)


def at_positions(
    chosen_BK: Float[Array, "B K"], rejected_BK: Float[Array, "B K"], batch: Batch
) -> Float[Array, "B S"]:
    """At every position, the number of its own answer; 0 in padding."""
    segment_BS, num_pairs = jnp.asarray(batch.segment_ids), chosen_BK.shape[1]
    if not num_pairs:
        return jnp.zeros(segment_BS.shape, chosen_BK.dtype)
    place_BS = jnp.clip((segment_BS + 1) // 2 - 1, 0, num_pairs - 1)
    both = (jnp.take_along_axis(x_BK, place_BS, axis=1) for x_BK in (chosen_BK, rejected_BK))
    own_BS = jnp.where(segment_BS % 2 == 1, *both)
    # Where a row's last segment has no partner, its place may be beyond the pairs.
    return jnp.where((segment_BS > 0) & (segment_BS <= 2 * num_pairs), own_BS, 0.0)


def means(
    of_pairs: Mapping[str, Float[Array, "B K"]], pairs: Pairs, totals: Float[Array, ""]
) -> dict[str, Float[Array, ""]]:
    """The sums over the pairs here, divided by the pairs of the whole batch."""
    return {
        name: jnp.sum(jnp.where(pairs.is_pair_BK, values_BK, 0.0)) / totals
        for name, values_BK in of_pairs.items()
    }


def in_order(margin_BK: Float[Array, "B K"]) -> Float[Array, "B K"]:
    """1 where the chosen answer is ahead, 0 where it is behind; a tie counts one half."""
    return 0.5 * (1.0 + jnp.sign(margin_BK))


def _of_rows(batch: Batch) -> Int[Array, " B"]:
    return jnp.max(batch.segment_ids, axis=1) // 2
