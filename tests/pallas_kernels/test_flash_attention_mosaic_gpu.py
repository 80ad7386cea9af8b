"""The Hopper kernels: which tiles they visit, interpreted on the CPU, lowered for CUDA, and run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.flash_attention import mosaic_gpu, reference
from pallas_kernels.flash_attention import mosaic_gpu_backward as bwd
from pallas_kernels.flash_attention import mosaic_gpu_forward as fwd
from pallas_kernels.flash_attention import mosaic_gpu_tiles as tiles

FUSED, SPLIT = bwd.Config(is_fused=True), bwd.Config(is_fused=False)
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


@pytest.mark.parametrize("num_heads, together", ((8, 4), (3, 1), (2, 2)))
def test_launch_order_visits_each_tile_once(num_heads, together):
    index = jnp.arange(num_heads * 5, dtype=jnp.int32)
    head, tile = tiles.decode(index, num_tiles=5, heads_together=together)
    assert len(set(zip(head.tolist(), tile.tolist(), strict=True))) == num_heads * 5


def make(batch, num_rows, num_cols, num_heads, num_kv_heads, width, width_v, dtype=jnp.bfloat16):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)  # noqa: E731
    q, dout = (draw(batch, num_rows, num_heads, n) for n in (width, width_v))
    k, v = (draw(batch, num_cols, num_kv_heads, n) for n in (width, width_v))
    return q, k, v, dout


def with_gradients(attention, q, k, v, dout):
    out, pullback, max_logits = jax.vjp(attention, q, k, v, has_aux=True)
    return (out, *pullback(dout)), max_logits


def assert_near_reference(attention, inputs, ids, causal):
    """16-bit inputs: out within 2^-8, gradients within 2^-7 in norm of float32 attention."""
    kinds = dict(causal=causal, scale=0.1)
    exact, exact_max = with_gradients(
        lambda q, k, v: reference.attention(q, k, v, *ids, **kinds),
        *(x.astype(jnp.float32) for x in inputs),
    )
    ours, ours_max = with_gradients(lambda q, k, v: attention(q, k, v, *ids, **kinds), *inputs)
    np.testing.assert_allclose(ours_max, exact_max, rtol=1e-5)
    for x, y, tolerance in zip(ours, exact, (2**-8, 2**-7, 2**-7, 2**-7), strict=True):
        error = np.linalg.norm(x.astype(jnp.float32) - y) / np.linalg.norm(y)
        assert error < tolerance


INTERPRETED = (
    pytest.param((1, 130, 130, 1, 1, 64, 64), True, None, id="causal"),
    pytest.param((1, 72, 136, 2, 1, 64, 64), False, 50, id="grouped-full-documents"),
)


@pytest.mark.slow
@pytest.mark.parametrize("shape, causal, document", INTERPRETED)
def test_interpreted_kernels_agree_and_have_no_races(shape, causal, document, capfd):
    ids = (None, None)
    if document:
        ids = tuple(jnp.arange(n)[None] // document for n in shape[1:3])
    config = mosaic_gpu.Config(fwd.Config(block_kv=64), SPLIT)
    attention = functools.partial(mosaic_gpu.attention, config=config, interpret=True)
    assert_near_reference(attention, make(*shape), ids, causal)
    assert "RACE DETECTED" not in capfd.readouterr().out


LOWERED = (
    pytest.param((1, 256, 256, 2, 2, 192, 128), False, SPLIT, id="mla", marks=pytest.mark.slow),
    pytest.param((1, 256, 256, 2, 2, 192, 128), True, FUSED, id="mla-packed-fused"),
    pytest.param((1, 250, 300, 4, 2, 128, 128), False, FUSED, id="grouped-odd"),
    pytest.param((1, 256, 256, 2, 2, 64, 64), True, FUSED, id="64-packed", marks=pytest.mark.slow),
    pytest.param((1, 256, 256, 2, 2, 256, 256), False, FUSED, id="256", marks=pytest.mark.slow),
)


@pytest.mark.parametrize("shape, is_packed, backward", LOWERED)
@pytest.mark.parametrize("dtype", (jnp.bfloat16,))
def test_kernels_lower_for_cuda(shape, is_packed, backward, dtype):
    q, k, v, dout = make(*shape, dtype)
    ids = tuple(jnp.zeros((1, n), int) for n in shape[1:3]) if is_packed else (None, None)
    config = mosaic_gpu.choose_config(*shape[5:])._replace(backward=backward)
    attention = functools.partial(mosaic_gpu.attention, causal=True, scale=0.1, config=config)
    run = jax.jit(lambda *x: with_gradients(lambda q, k, v: attention(q, k, v, *ids), *x))
    text = run.trace(q, k, v, dout).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("mosaic_gpu") >= (3 if backward.is_fused is False else 1)


def test_vmap_adds_to_the_batch():
    q, k, v, _ = make(1, 128, 128, 2, 2, 64, 64)
    attention = functools.partial(
        mosaic_gpu.attention, q_ids_BS=None, kv_ids_BT=None, causal=True, scale=0.1
    )
    stacked = [jnp.stack([x] * 3) for x in (q, k)]
    mapped = jax.jit(jax.vmap(attention, in_axes=(0, 0, None)))
    out, max_logits = jax.eval_shape(mapped, *stacked, v)
    assert out.shape == (3, 1, 128, 2, 64) and max_logits.shape == (3, 1, 2)
    mapped.trace(*stacked, v).lower(lowering_platforms=("cuda",))


def test_gradient_lowers_inside_shard_map():
    q, k, v, dout = make(8, 128, 128, 2, 2, 64, 64)
    attention = functools.partial(
        mosaic_gpu.attention, q_ids_BS=None, kv_ids_BT=None, causal=True, scale=0.1
    )
    auto = (jax.sharding.AxisType.Auto,)
    mesh, spec = jax.make_mesh((8,), ("data",), axis_types=auto), jax.sharding.PartitionSpec("data")
    run = jax.shard_map(
        functools.partial(with_gradients, attention), mesh=mesh, in_specs=spec, out_specs=spec
    )
    jax.jit(run).trace(q, k, v, dout).lower(lowering_platforms=("cuda",))


@pytest.mark.slow
@pytest.mark.parametrize("scale", (-0.1, 0.0))
def test_any_scale_gives_the_maximum(scale):
    q, k, v, _ = make(1, 64, 64, 1, 1, 64, 64)
    kinds = dict(q_ids_BS=None, kv_ids_BT=None, causal=True, scale=scale)
    _, ours = mosaic_gpu.attention(q, k, v, interpret=True, **kinds)
    np.testing.assert_allclose(ours, reference.attention(q, k, v, **kinds)[1], rtol=1e-5)


RUN = (
    pytest.param((2, 333, 333, 2, 2, 192, 128), True, None, id="mla-odd"),
    pytest.param((1, 512, 512, 8, 2, 128, 128), True, 100, id="grouped-packed"),
    pytest.param((1, 77, 333, 2, 1, 64, 64), False, None, id="full"),
    pytest.param((1, 300, 200, 2, 2, 256, 256), True, None, id="256-unseen-rows"),
)


@pytest.mark.gpu
@pytest.mark.parametrize("shape, causal, document", RUN)
@pytest.mark.parametrize("backward", (FUSED, SPLIT), ids=("fused", "split"))
def test_kernels_agree_on_the_gpu(shape, causal, document, backward):
    ids = (None, None)
    if document:
        ids = tuple(jnp.arange(n)[None] // document for n in shape[1:3])
    config = mosaic_gpu.choose_config(*shape[5:])._replace(backward=backward)
    attention = functools.partial(mosaic_gpu.attention, config=config)
    with jax.default_matmul_precision("highest"):
        assert_near_reference(attention, make(*shape), ids, causal)
