"""How the tiles of a symmetric matrix are shared out: each pair of blocks once, as items.

Letters: P items.
"""

import numpy as np


def count(num_blocks: int, tiles_per_item: int) -> int:
    """Number of items that cover the triangle."""
    return -(-num_blocks * (num_blocks + 1) // 2 // tiles_per_item)


def items(num_blocks: int, tiles_per_item: int) -> np.ndarray:
    """Returns (P, 1 + tiles_per_item) int32 rows (shared, other, ...) that cover every tile once.

    An item computes the tiles (shared, other), so it loads the shared block once. With two tiles
    per item at most one item lacks its second one, marked -1: the rows of the triangle are cut into
    pairs from the diagonal on, and the tiles that odd rows leave in the last column are paired down
    that column.
    """
    if tiles_per_item == 1:
        return np.array([(i, j) for i in range(num_blocks) for j in range(i, num_blocks)], np.int32)
    last = num_blocks - 1
    table, left = [], []
    for row in range(num_blocks):
        cols = list(range(row, num_blocks))
        if len(cols) % 2:
            left.append(row)
            cols = cols[:-1]
        table += [(row, *pair) for pair in zip(cols[::2], cols[1::2], strict=True)]
    ends = [*left[1::2], -1] if len(left) % 2 else left[1::2]
    table += [(last, *pair) for pair in zip(left[::2], ends, strict=True)]
    return np.array(table, np.int32)


def clustered_items(num_blocks: int) -> np.ndarray:
    """Returns (P, 3) int32 rows (row, col, col + 1): 2 x 2 tiles, from the diagonal to the right.

    The tile below the diagonal, and what an odd number of blocks leaves beyond the end, is waste.
    """
    rows, cols = np.triu_indices(-(-num_blocks // 2))
    return np.stack([2 * rows, 2 * cols, 2 * cols + 1], axis=1).astype(np.int32)
