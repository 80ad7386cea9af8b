"""Which tiles of the score matrix a kernel visits.

A tile of queries visits the blocks of keys `first .. last`; those in `full_first .. full_last`
are visible to every query of the tile, so they need no mask. A tile of keys visits blocks of
queries in the same way. Without segments the four numbers are arithmetic on the tile's position
and cost nothing; with segments they are a table that XLA fills before the kernel starts.

Letters: B batch, I tiles, J blocks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Range(NamedTuple):
    """Blocks first .. last are visited; full_first .. full_last of them without a mask."""

    first: jax.Array | int
    full_first: jax.Array | int
    full_last: jax.Array | int
    last: jax.Array | int


def read_range(table, *index) -> Range:
    """The entry of a kernel's table at `index`, as made by `segment_ranges`.

    Inside shard_map a Ref yields values that vary over mesh axes, although JAX no longer tracks
    these axes in a Mosaic GPU kernel: a loop counter that starts at such a value changes type. Sums
    forget the axes.
    """
    return Range(*(table[*index, i] + 0 for i in range(4)))


def key_range(tile, *, tile_q: int, block_kv: int, num_rows: int, num_cols: int, causal: bool):
    """Blocks of keys that the `tile`-th tile of queries visits, without segments."""
    num_blocks = _cdiv(num_cols, block_kv)
    if not causal:
        return Range(0, 0, num_cols // block_kv, num_blocks)
    first_row = tile * tile_q + num_cols - num_rows  # in key positions
    seen_by_all = jnp.clip(first_row + 1, 0, num_cols)
    seen_by_any = jnp.clip(first_row + tile_q, 0, num_cols)
    last = lax.div(seen_by_any + (block_kv - 1), np.int32(block_kv))
    return Range(0, 0, lax.div(seen_by_all, np.int32(block_kv)), last)


def query_range(tile, *, tile_kv: int, block_q: int, num_rows: int, num_cols: int, causal: bool):
    """Blocks of queries that the `tile`-th tile of keys visits, without segments."""
    num_blocks = _cdiv(num_rows, block_q)
    first_col = tile * tile_kv
    if not causal:
        # Keys beyond the end are zeros that must not count: the last tile is masked throughout.
        full = jnp.where(first_col + tile_kv <= num_cols, num_blocks, 0)
        return Range(0, 0, full, num_blocks)
    offset = num_cols - num_rows
    first = lax.div(jnp.clip(first_col - offset, 0, num_rows), np.int32(block_q))
    all_seen_from = jnp.clip(first_col + tile_kv - 1 - offset, 0, num_rows)
    full_first = lax.div(all_seen_from + (block_q - 1), np.int32(block_q))
    return Range(first, full_first, num_blocks, num_blocks)


def segment_ranges(tile_ids_BS, block_ids_BT, *, tile: int, block: int, ranges: Range):
    """The ranges of packed sequences: (B, I, 4) int32 from ids padded to whole tiles and blocks.

    `ranges` holds arrays (I,): the ranges that causality alone would give. Ids need no order; if
    they only grow, exactly the blocks that share a segment with the tile are visited.
    """
    tile_min, tile_max = _min_max(tile_ids_BS, tile)
    block_min, block_max = _min_max(block_ids_BT, block)
    index = jnp.arange(block_min.shape[1])

    def column(x):
        return jnp.broadcast_to(jnp.asarray(x), tile_min.shape[1:])[None, :, None]

    allowed = (index >= column(ranges.first)) & (index < column(ranges.last))
    unmasked = (index >= column(ranges.full_first)) & (index < column(ranges.full_last))
    tile_min, tile_max = tile_min[:, :, None], tile_max[:, :, None]
    block_min, block_max = block_min[:, None], block_max[:, None]
    touches = allowed & (block_min <= tile_max) & (block_max >= tile_min)
    one_segment = (tile_min == tile_max) & (block_min == block_max) & (tile_min == block_min)
    full = touches & unmasked & one_segment
    num_blocks = index.size
    first = jnp.argmax(touches, axis=-1)
    last = jnp.where(touches.any(-1), num_blocks - jnp.argmax(touches[..., ::-1], axis=-1), first)
    full_first = jnp.where(full.any(-1), jnp.argmax(full, axis=-1), last)
    after = ~full & (index >= full_first[..., None])
    full_last = jnp.where(after.any(-1), jnp.argmax(after, axis=-1), num_blocks)
    full_last = jnp.minimum(full_last, last)
    return jnp.stack([first, full_first, full_last, last], axis=-1).astype(jnp.int32)


def pad_ids(ids_BS, multiple: int):
    """Ids as int32, the last one repeated up to a multiple of the tile."""
    missing = -ids_BS.shape[1] % multiple
    return jnp.pad(ids_BS.astype(jnp.int32), ((0, 0), (0, missing)), mode="edge")


def _min_max(ids_BS, size):
    blocks = ids_BS.reshape(ids_BS.shape[0], -1, size)
    return blocks.min(-1), blocks.max(-1)


def _cdiv(x: int, size: int) -> int:
    return -(-x // size)
