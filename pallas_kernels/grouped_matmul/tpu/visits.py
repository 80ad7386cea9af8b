"""Which row tiles a grouped product visits, and for which group: one visit per pair that overlaps.

Groups are contiguous, so at most (tiles + groups - 1) pairs overlap, whatever the group sizes.
Visits of one tile follow each other, as do visits of one group.

Letters: G groups, V visits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Visits(NamedTuple):
    """What each visit works on; a kernel reads these from scalar memory."""

    group_V: jax.Array
    tile_V: jax.Array
    first_V: jax.Array  # the group's rows in the tile start here
    end_V: jax.Array  # and end before this one; both 0 where there are none


def of_tiles(group_sizes_G: jax.Array, num_rows: int, tile_rows: int) -> Visits:
    """Visits every tile at least once, including tiles beyond the last group."""
    num_tiles = -(-num_rows // tile_rows)
    first_tile_G, num_G = _overlapping_tiles(group_sizes_G, tile_rows)
    # Tiles beyond the last group are visited as if by one more group without rows.
    beyond = -(-group_sizes_G.sum() // tile_rows)
    first_tile_G = jnp.append(first_tile_G, beyond)
    num_G = jnp.append(num_G, num_tiles - beyond)
    visits = _visits(jnp.append(group_sizes_G, 0), first_tile_G, num_G, num_tiles, tile_rows)
    return visits._replace(group_V=jnp.minimum(visits.group_V, len(group_sizes_G) - 1))


def of_groups(group_sizes_G: jax.Array, num_rows: int, tile_rows: int) -> Visits:
    """Visits every group at least once, including empty ones."""
    num_tiles = -(-num_rows // tile_rows)
    first_tile_G, num_G = _overlapping_tiles(group_sizes_G, tile_rows)
    first_tile_G = jnp.minimum(first_tile_G, num_tiles - 1)
    return _visits(group_sizes_G, first_tile_G, jnp.maximum(num_G, 1), num_tiles, tile_rows)


def _overlapping_tiles(group_sizes_G, tile_rows):
    end_G = jnp.cumsum(group_sizes_G)
    first_tile_G = (end_G - group_sizes_G) // tile_rows
    num_G = -(-end_G // tile_rows) - first_tile_G
    return first_tile_G, jnp.where(group_sizes_G > 0, num_G, 0)


def _visits(group_sizes_G, first_tile_G, num_G, num_tiles, tile_rows):
    end_visit_G = jnp.cumsum(num_G)
    num_visits = end_visit_G[-1]
    index_V = jnp.arange(num_tiles + len(group_sizes_G) - 1)
    # The grid is static: the rest of it repeats the last visit, without rows.
    visit_V = jnp.minimum(index_V, num_visits - 1)
    group_V = (visit_V[:, None] >= end_visit_G).sum(axis=1, dtype=jnp.int32)
    tile_V = first_tile_G[group_V] + visit_V - (end_visit_G - num_G)[group_V]
    end_row_V = jnp.cumsum(group_sizes_G)[group_V] - tile_V * tile_rows
    first_row_V = end_row_V - group_sizes_G[group_V]
    first_V, end_V = (jnp.clip(row_V, 0, tile_rows) for row_V in (first_row_V, end_row_V))
    has_rows_V = (index_V < num_visits) & (first_V < end_V)
    return Visits(
        group_V, tile_V, jnp.where(has_rows_V, first_V, 0), jnp.where(has_rows_V, end_V, 0)
    )
