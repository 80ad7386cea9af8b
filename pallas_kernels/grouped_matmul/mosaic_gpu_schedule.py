"""Which tile a Hopper block works on next: tables that XLA fills from the group sizes.

A product's tiles start at the first row of their group, so only a group's last one is part empty;
the rows beyond the groups count as one more group, whose tiles are stored as zeros. Blocks take
items in turn, so items should cost the same: one is a tile, or, where a group's last tile has at
most half its rows, two neighbouring columns of that. At most M / tile_m + G + 1 tiles of rows
exist whatever the sizes, so shapes are static and the number of items in use stands on the device.

Letters: M rows, G groups, T items in their order.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

# The columns of a table of products.
ROW, NUM_ROWS, GROUP, COL_TILE, NUM_COL_TILES = range(5)


def of_matmul(group_sizes_G, num_rows: int, tile_m: int, num_col_tiles: int, band: int):
    """Returns the items (T, 5), and how many of them are in use (1,), int32.

    A group's tiles come in bands of at most `band` tiles of rows, about equally high; in a band
    the tiles of rows that share a slice of the matrix are neighbours, so blocks that run side by
    side share it in L2. A half tile belongs to its group's last band.
    """
    rest = num_rows - group_sizes_G.sum(keepdims=True)
    size_G = jnp.concatenate([group_sizes_G, rest]).astype(jnp.int32)
    full_G = lax.div(size_G + (tile_m // 2 - 1), np.int32(tile_m))
    half_G = (size_G > full_G * tile_m).astype(jnp.int32)
    items_G = full_G * num_col_tiles + half_G * (-(-num_col_tiles // 2))
    bands_G = jnp.maximum(1, lax.div(full_G + (band - 1), np.int32(band)))
    height_G = lax.div(full_G + bands_G - 1, bands_G)
    end_G, row_end_G = _cumsum(items_G), _cumsum(size_G)
    columns = (end_G - items_G, row_end_G - size_G, size_G, full_G, half_G, bands_G, height_G)

    num_items = (num_rows // tile_m + size_G.shape[0]) * num_col_tiles
    item_T = jnp.arange(num_items, dtype=jnp.int32)
    group_T = (end_G[None] <= item_T[:, None]).sum(axis=1, dtype=jnp.int32)
    group_T = jnp.minimum(group_T, size_G.shape[0] - 1)
    start, first_row, size, full, half, bands, height = jnp.stack(columns)[:, group_T]

    local_T = item_T - start
    nth_T = jnp.minimum(_div(local_T, height * num_col_tiles), bands - 1)
    local_T -= nth_T * height * num_col_tiles
    own_height_T = jnp.minimum(height, full - nth_T * height)
    # Two columns at a time, and after them their half tile in the last band.
    per_pair_T = 2 * own_height_T + jnp.where(nth_T == bands - 1, half, 0)
    pair_T = _div(local_T, per_pair_T)
    local_T -= pair_T * per_pair_T
    width_T = jnp.minimum(2, num_col_tiles - 2 * pair_T)
    is_half_T = local_T >= width_T * own_height_T
    second_T = _div(local_T, own_height_T)
    row_tile_T = jnp.where(is_half_T, own_height_T, local_T - second_T * own_height_T)
    col_T = 2 * pair_T + jnp.where(is_half_T, 0, second_T)
    offset_T = (nth_T * height + row_tile_T) * tile_m
    num_rows_T = jnp.clip(size - offset_T, 0, tile_m)
    num_cols_T = jnp.where(is_half_T, width_T, 1)
    table = [first_row + offset_T, num_rows_T, group_T, col_T, num_cols_T]
    return jnp.stack(table, axis=1), end_G[-1:]


def of_outer(group_sizes_G):
    """Returns (G, 3) int32 of group, first row and end, the largest group first.

    Neighbours then do about equal work, so dealing tiles out in turn balances the blocks.
    """
    size_G = group_sizes_G.astype(jnp.int32)
    end_G = _cumsum(size_G)
    index_G = jnp.arange(size_G.shape[0], dtype=jnp.int32)
    is_before = (size_G[:, None] > size_G) | (
        (size_G[:, None] == size_G) & (index_G[:, None] < index_G)
    )
    rank_G = is_before.sum(axis=0, dtype=jnp.int32)
    rows = jnp.stack([index_G, end_G - size_G, end_G], axis=1)
    return jnp.zeros_like(rows).at[rank_G].set(rows, unique_indices=True)


def _cumsum(x_G):
    # One fused comparison: a scan is several kernels on a GPU.
    index = jnp.arange(x_G.shape[0])
    return jnp.where(index[:, None] >= index, x_G, 0).sum(axis=1, dtype=jnp.int32)


def _div(x, y):
    """x / y rounded down, for x >= 0; anything where y is 0."""
    return lax.div(x, jnp.maximum(y, 1))
