"""The order in which Hopper kernels work off tiles: heads in groups that share the L2 cache."""

import numpy as np
from jax import lax

# Heads processed side by side: their keys and values (and dq, in backward) should stay in the
# 50 MB L2 while all tiles of these heads are worked off, longest first.
L2_BYTES = 24 << 20


def side_by_side(num_heads: int, bytes_per_head: int) -> int:
    """The largest divisor of num_heads whose data fits in L2_BYTES, at least 1."""
    limit = max(1, L2_BYTES // bytes_per_head)
    return max(n for n in range(1, num_heads + 1) if num_heads % n == 0 and n <= limit)


def decode(index, *, num_tiles: int, heads_together: int):
    """Position in the launch order -> (head, tile): sections of heads, first tiles first."""
    section, rest = _divmod(index, heads_together * num_tiles)
    tile, head = _divmod(rest, heads_together)
    return section * heads_together + head, tile


def _divmod(x, size):
    size = np.int32(size)
    return lax.div(x, size), lax.rem(x, size)
