"""The Hopper kernels: their order of visits, interpreted on the CPU, lowered for CUDA, run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.flash_attention import reference
from pallas_kernels.flash_attention.gpu import backward as bwd
from pallas_kernels.flash_attention.gpu import dispatch, order
from pallas_kernels.flash_attention.gpu import forward as fwd

FUSED, SPLIT = bwd.Config(is_fused=True), bwd.Config(is_fused=False)


@pytest.mark.parametrize("num_heads, together", ((8, 4), (3, 1), (2, 2)))
def test_launch_order_visits_each_tile_once(num_heads, together):
    index = jnp.arange(num_heads * 5, dtype=jnp.int32)
    head, tile = order.decode(index, num_tiles=5, heads_together=together)
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
    """With 16-bit inputs, out is within 2^-8 and gradients 2^-7 of float32 attention in norm."""
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


@pytest.mark.long
@pytest.mark.parametrize("shape, causal, document", INTERPRETED)
def test_interpreted_kernels_agree_and_have_no_races(shape, causal, document, capfd):
    ids = (None, None)
    if document:
        ids = tuple(jnp.arange(n)[None] // document for n in shape[1:3])
    config = dispatch.Config(fwd.Config(block_kv=64), SPLIT)
    attention = functools.partial(dispatch.attention, config=config, interpret=True)
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
    config = dispatch.choose_config(*shape[5:])._replace(backward=backward)
    attention = functools.partial(dispatch.attention, causal=True, scale=0.1, config=config)
    run = jax.jit(lambda *x: with_gradients(lambda q, k, v: attention(q, k, v, *ids), *x))
    text = run.trace(q, k, v, dout).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("mosaic_gpu") >= (3 if backward.is_fused is False else 1)


def test_vmap_adds_to_the_batch():
    q, k, v, _ = make(1, 128, 128, 2, 2, 64, 64)
    attention = functools.partial(
        dispatch.attention, q_ids_BS=None, kv_ids_BT=None, causal=True, scale=0.1
    )
    stacked = [jnp.stack([x] * 3) for x in (q, k)]
    mapped = jax.jit(jax.vmap(attention, in_axes=(0, 0, None)))
    out, max_logits = jax.eval_shape(mapped, *stacked, v)
    assert out.shape == (3, 1, 128, 2, 64) and max_logits.shape == (3, 1, 2)
    mapped.trace(*stacked, v).lower(lowering_platforms=("cuda",))


def test_gradient_lowers_inside_shard_map():
    q, k, v, dout = make(8, 128, 128, 2, 2, 64, 64)
    attention = functools.partial(
        dispatch.attention, q_ids_BS=None, kv_ids_BT=None, causal=True, scale=0.1
    )
    auto = (jax.sharding.AxisType.Auto,)
    mesh, spec = jax.make_mesh((8,), ("data",), axis_types=auto), jax.sharding.PartitionSpec("data")
    run = jax.shard_map(
        functools.partial(with_gradients, attention), mesh=mesh, in_specs=spec, out_specs=spec
    )
    jax.jit(run).trace(q, k, v, dout).lower(lowering_platforms=("cuda",))


@pytest.mark.long
@pytest.mark.parametrize("scale", (-0.1, 0.0))
def test_any_scale_gives_the_maximum(scale):
    q, k, v, _ = make(1, 64, 64, 1, 1, 64, 64)
    kinds = dict(q_ids_BS=None, kv_ids_BT=None, causal=True, scale=scale)
    _, ours = dispatch.attention(q, k, v, interpret=True, **kinds)
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
    config = dispatch.choose_config(*shape[5:])._replace(backward=backward)
    attention = functools.partial(dispatch.attention, config=config)
    with jax.default_matmul_precision("highest"):
        assert_near_reference(attention, make(*shape), ids, causal)
