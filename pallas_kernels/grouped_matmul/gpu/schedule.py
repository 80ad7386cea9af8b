"""Which tile a Hopper block works on next: tables that XLA fills from the group sizes.

A product's tiles start at the first row of their group, so only a group's last tile is partly
empty; the rows beyond the groups count as one more group, whose tiles are stored as zeros. At most
M / tile_m + G + 1 tiles of rows exist whatever the sizes, so shapes are static and the number of
tiles in use stays on the device.

Letters: M rows, G groups, T tiles in their order.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

# The columns of a table of products.
ROW, NUM_ROWS, GROUP, COL_TILE = range(4)


def of_matmul(group_sizes_G, num_rows: int, tile_m: int, num_col_tiles: int, band: int):
    """Returns the tiles (T, 4), and how many of them are in use (1,), int32.

    A group's tiles come in bands of `band` tiles of rows; in a band the tiles of rows that share
    a slice of the matrix are neighbours, so blocks that run side by side share it in L2.
    """
    rest = num_rows - group_sizes_G.sum(keepdims=True)
    size_G = jnp.concatenate([group_sizes_G, rest]).astype(jnp.int32)
    row_tiles_G = lax.div(size_G + (tile_m - 1), np.int32(tile_m))
    end_G, row_end_G = _cumsum(row_tiles_G * num_col_tiles), _cumsum(size_G)
    num_tiles = (num_rows // tile_m + size_G.shape[0]) * num_col_tiles

    tile_T = jnp.arange(num_tiles, dtype=jnp.int32)
    group_T = (end_G[None] <= tile_T[:, None]).sum(axis=1, dtype=jnp.int32)
    group_T = jnp.minimum(group_T, size_G.shape[0] - 1)
    row_tiles_T = row_tiles_G[group_T]
    local_T = tile_T - (end_G - row_tiles_G * num_col_tiles)[group_T]
    nth_T, local_T = _divmod(local_T, band * num_col_tiles)
    height_T = jnp.clip(row_tiles_T - nth_T * band, 1, band)
    col_T, row_tile_T = _divmod(local_T, height_T)
    offset_T = (nth_T * band + row_tile_T) * tile_m
    row_T = (row_end_G - size_G)[group_T] + offset_T
    num_rows_T = jnp.clip(size_G[group_T] - offset_T, 0, tile_m)
    return jnp.stack([row_T, num_rows_T, group_T, col_T], axis=1), end_G[-1:]


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


def _divmod(x, size):
    size = jnp.int32(size)
    quotient = lax.div(x, jnp.broadcast_to(size, x.shape))
    return quotient, x - quotient * size
