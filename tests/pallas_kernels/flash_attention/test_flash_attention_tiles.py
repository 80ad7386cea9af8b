"""Which blocks a tile visits: all that it sees, unmasked if it sees all, no other document's."""

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.flash_attention import reference, tiles

LENGTHS = ((512, 512), (500, 500), (130, 700), (700, 130), (1, 300), (129, 129), (256, 318))
by_length = pytest.mark.parametrize("num_rows, num_cols", LENGTHS)


def sees(num_rows, num_cols, causal, ids=None):
    """(S, T) booleans of one sequence."""
    ids = (None, None) if ids is None else (jnp.asarray(x)[None] for x in ids)
    seen = reference.visible(num_rows, num_cols, *ids, causal=causal)
    return np.asarray(seen)[0, 0, 0]


def assert_covers(ranges, seen, tile, block):
    """Every visible score lies in a visited block, and blocks without a mask are all visible."""
    padded = np.zeros((-(-seen.shape[0] // tile) * tile, -(-seen.shape[1] // block) * block), bool)
    padded[: seen.shape[0], : seen.shape[1]] = seen
    for i, (first, full_first, full_last, last) in enumerate(np.asarray(ranges)):
        rows = padded[i * tile : (i + 1) * tile].reshape(tile, -1, block).swapaxes(0, 1)
        real = min(seen.shape[0] - i * tile, tile)
        visited = np.zeros(len(rows), bool)
        visited[first:last] = True
        assert not rows[~visited].any(), f"tile {i} misses visible scores"
        assert first <= full_first <= full_last <= last or full_first >= full_last
        assert rows[full_first:full_last, :real].all(), f"tile {i} skips a mask it needs"


@by_length
@pytest.mark.parametrize("causal", (True, False))
@pytest.mark.parametrize("block", (64, 128))
def test_key_ranges_cover_what_is_visible(num_rows, num_cols, causal, block):
    sizes = dict(num_rows=num_rows, num_cols=num_cols, causal=causal)
    index = jnp.arange(-(-num_rows // 128), dtype=jnp.int32)
    ranges = tiles.key_range(index, tile_q=128, block_kv=block, **sizes)
    ranges = np.stack(np.broadcast_arrays(*map(np.asarray, ranges), index)[:4], axis=-1)
    assert_covers(ranges, sees(num_rows, num_cols, causal), 128, block)


@by_length
def test_query_ranges_cover_what_is_visible(num_rows, num_cols):
    sizes = dict(num_rows=num_rows, num_cols=num_cols, causal=True)
    index = jnp.arange(-(-num_cols // 128), dtype=jnp.int32)
    ranges = tiles.query_range(index, tile_kv=128, block_q=64, **sizes)
    ranges = np.stack(np.broadcast_arrays(*map(np.asarray, ranges), index)[:4], axis=-1)
    seen = sees(num_rows, num_cols, True).T
    # The last block may hold rows beyond the end: they carry no gradient and need no mask.
    seen = np.pad(seen, ((0, 0), (0, -num_rows % 64)), constant_values=True)
    visited = np.zeros(seen.shape, bool)
    for i, (first, full_first, full_last, last) in enumerate(ranges):
        rows = slice(i * 128, (i + 1) * 128)
        visited[rows, first * 64 : last * 64] = True
        assert seen[rows, full_first * 64 : full_last * 64].all()
    assert not (seen & ~visited)[:, :num_rows].any()


@pytest.mark.parametrize("causal", (True, False))
@pytest.mark.parametrize("is_sorted", (True, False))
def test_segment_ranges_cover_what_is_visible(causal, is_sorted):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 5, 700)
    ids = np.sort(ids) if is_sorted else ids
    sizes = dict(num_rows=700, num_cols=700, causal=causal)
    index = jnp.arange(6, dtype=jnp.int32)
    by_causality = tiles.key_range(index, tile_q=128, block_kv=64, **sizes)
    rows, cols = tiles.pad_ids(ids[None], 128), tiles.pad_ids(ids[None], 64)
    ranges = tiles.segment_ranges(rows, cols, tile=128, block=64, ranges=by_causality)
    assert_covers(ranges[0], sees(700, 700, causal, (ids, ids)), 128, 64)


def test_packed_documents_visit_only_their_own_blocks():
    ids = np.repeat(np.arange(8), 256)[None]
    index = jnp.arange(16, dtype=jnp.int32)
    by_causality = tiles.key_range(
        index, tile_q=128, block_kv=128, num_rows=2048, num_cols=2048, causal=True
    )
    ranges = tiles.segment_ranges(ids, ids, tile=128, block=128, ranges=by_causality)
    np.testing.assert_array_equal((ranges[..., 3] - ranges[..., 0])[0], [1, 2] * 8)
