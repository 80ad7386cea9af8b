"""The TPU kernels: interpreted on the CPU, lowered, and compiled for TPUs that are not there."""

import functools

import aot
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_attention import assert_errs_at_most_twice_as_much, cast_inputs, jit, plain

import pallas_kernels
from pallas_kernels.flash_attention import cases, reference
from pallas_kernels.flash_attention.tpu import dispatch

# Blocks of 128: the small cases have up to six of them, and up to three chunks.
CONFIG = dispatch.Config(128, 128, forward_keys=256, backward_keys=256, vmem_bytes=16 << 20)
FAST_CASES = ("chunked_prefill", "unseen_rows")
DOCUMENTS = next(case for case in cases.SMALL_CASES if case.name == "documents")


def with_gradients(attention, q, k, v, dout):
    out, pullback, max_logits = jax.vjp(attention, q, k, v, has_aux=True)
    return (out, *pullback(dout)), max_logits


def interpreted_attention(q, k, v, segment_ids=None, causal=True, scale=None):
    return dispatch.attention(
        q,
        k,
        v,
        *(segment_ids or (None, None)),
        causal=causal,
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
        config=CONFIG,
        interpret=True,
    )


def attend(q, k, v, dout, segment_ids, causal=True):
    kinds = dict(segment_ids=segment_ids, causal=causal)
    return with_gradients(functools.partial(interpreted_attention, **kinds), q, k, v, dout)


interpreted = jit(attend, static_argnames="causal")  # compiled once for all cases of a shape


@functools.partial(jit, static_argnames="causal")
def plainly(q, k, v, dout, segment_ids, *, causal):
    out, pullback = jax.vjp(lambda *qkv: plain(*qkv, segment_ids, causal), q, k, v)
    return out, *pullback(dout)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case.name in FAST_CASES else pytest.mark.long)
        for case in cases.SMALL_CASES
    ],
    ids=lambda case: case.name,
)
def test_bfloat16_errs_at_most_twice_as_much_as_plain_bfloat16(case, capfd):
    inputs = cast_inputs(case, jnp.bfloat16)
    got, max_logits = interpreted(*inputs, causal=case.causal)
    assert "RACE DETECTED" not in capfd.readouterr().out
    theirs = plainly(*inputs, causal=case.causal)
    for x in got:
        assert x.dtype == jnp.bfloat16
    assert_errs_at_most_twice_as_much(got, max_logits, theirs, inputs, case.causal)


@pytest.mark.long
@pytest.mark.parametrize("scale", (-0.3, 0.0))
def test_float32_agrees_with_the_reference_at_any_scale(scale):
    q, k, v, dout, ids = cast_inputs(DOCUMENTS, jnp.float32)
    ours, max_logits = with_gradients(
        functools.partial(interpreted_attention, segment_ids=ids, scale=scale), q, k, v, dout
    )
    want, want_max = with_gradients(
        lambda *qkv: reference.attention(*qkv, *ids, causal=True, scale=scale), q, k, v, dout
    )
    np.testing.assert_allclose(max_logits, want_max, rtol=1e-6)
    for x, y in zip(ours, want, strict=True):
        assert np.linalg.norm(x - y) <= 1e-6 * np.linalg.norm(y)


@pytest.mark.parametrize("poisoned", (0, 1))
def test_documents_in_blocks_of_their_own_do_not_touch_each_other(poisoned):
    # Hidden scores are not enough: NaN times a probability of 0 is NaN.
    *arrays, _ = cast_inputs(DOCUMENTS, jnp.bfloat16)
    ids = np.broadcast_to(np.arange(DOCUMENTS.q_len) // CONFIG.block_kv, (2, DOCUMENTS.q_len))
    is_poisoned = ids[0] == poisoned
    arrays = [jnp.where(is_poisoned[:, None, None], jnp.nan, x) for x in arrays]
    results, _ = interpreted(*arrays, (ids, ids), causal=True)
    for x in results:
        np.testing.assert_array_equal(np.isnan(x).all(axis=(0, 2, 3)), is_poisoned)
        np.testing.assert_array_equal(np.isnan(x).any(axis=(0, 2, 3)), is_poisoned)


@pytest.mark.long
def test_padded_queries_have_no_part_in_a_negative_maximum():
    case = next(case for case in cases.SMALL_CASES if case.name == "odd_length")
    q, k, v, dout, _ = cast_inputs(case, jnp.bfloat16)
    q, k = abs(q), -abs(k)
    _, max_logits = interpreted(q, k, v, dout, None, causal=True)
    want = reference.attention(q, k, v, None, None, causal=True, scale=case.qk_dim**-0.5)[1]
    assert (want < 0).all()
    np.testing.assert_allclose(max_logits, want, rtol=1e-6)


@pytest.mark.long
def test_vmap_is_a_batch():
    q, k, v, dout, _ = cast_inputs(cases.SMALL_CASES[0], jnp.bfloat16)
    v = v[:1]

    def of_one(q, k, dout):
        return attend(q[None], k[None], v, dout[None], None)

    got, max_logits = jit(jax.vmap(of_one))(q, k, dout)
    want, want_max = interpreted(q, k, jnp.concatenate([v, v]), dout, None, causal=True)
    np.testing.assert_array_equal(max_logits[:, 0], want_max)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_array_equal(x[:, 0], y)


@pytest.mark.long
def test_shard_map_over_the_batch_changes_nothing():
    case = next(case for case in cases.SMALL_CASES if case.name == "scanned_tiles")
    *arrays, ids = cast_inputs(case._replace(batch=2), jnp.bfloat16)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    sharded = jax.shard_map(attend, mesh=mesh, in_specs=spec, out_specs=spec)
    got = jit(sharded)(*arrays, ids)
    halves = [jax.tree.map(lambda x, i=i: x[i : i + 1], (*arrays, ids)) for i in range(2)]
    want = jax.tree.map(lambda *x: np.concatenate(x), *(interpreted(*half) for half in halves))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def on(device_kind, num_cores=1):
    """JAX takes that TPU for the default device, as in an ahead-of-time compile."""
    device = jax.sharding.AbstractDevice(device_kind, num_cores, platform="tpu")
    mesh = jax.sharding.AbstractMesh((1,), ("device",), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


def shapes_of(case, dtype=jnp.bfloat16):
    """ShapeDtypeStructs of q, k, v, dout and the pair of ids, or None."""

    def shape(length, *rest, dtype=dtype):
        return jax.ShapeDtypeStruct((case.batch, length, *rest), dtype)

    q, dout = (shape(case.q_len, case.num_heads, x) for x in (case.qk_dim, case.v_dim))
    k, v = (shape(case.kv_len, case.num_kv_heads, x) for x in (case.qk_dim, case.v_dim))
    ids = None
    if case.segments != "none":
        ids = tuple(shape(length, dtype=jnp.int32) for length in (case.q_len, case.kv_len))
    return q, k, v, dout, ids


def public(q, k, v, dout, segment_ids, attention=pallas_kernels.flash_attention):
    """Output, gradients and max logits of what "auto" takes."""
    attention = functools.partial(attention, segment_ids=segment_ids)
    return with_gradients(attention, q, k, v, dout)


@pytest.mark.parametrize("case", cases.BENCHMARK_CASES[1:3], ids=lambda case: case.name)
def test_auto_lowers_to_the_tpu_kernels_on_a_tpu(case):
    recomputed = functools.partial(public, attention=jax.checkpoint(pallas_kernels.flash_attention))
    with on("TPU v5", num_cores=2):
        traced = jax.jit(recomputed).trace(*shapes_of(case))
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    # Twice forward, once backward.
    assert text.count("tpu_custom_call") == 3


@pytest.mark.parametrize(
    ("device_kind", "change", "reason"),
    [
        ("TPU v6 lite", {}, None),
        ("TPU v4", {}, "one of the TPUs"),
        ("TPU v6 lite", {"dtype": jnp.float16}, "bfloat16 or float32"),
        ("TPU v6 lite", {"width": 24}, "widths"),
        ("TPU v6 lite", {"batch": 40_000}, "packed tiles"),
    ],
)
def test_why_not_on_a_tpu(device_kind, change, reason):
    values = {"batch": 1, "width": 128, "dtype": jnp.bfloat16} | change
    x = jax.ShapeDtypeStruct((values["batch"], 64, 2, values["width"]), values["dtype"])
    ids = jax.ShapeDtypeStruct(x.shape[:2], jnp.int32)
    with on(device_kind):
        choice = pallas_kernels.flash_attention_choice(x, x, x, segment_ids=ids)
    assert choice.implementation == ("xla" if reason else "mosaic_tpu")
    if reason:
        assert reason in choice.reasons["mosaic_tpu"]


def test_named_elsewhere_it_says_why_not():
    x = jnp.ones((1, 8, 2, 128), jnp.bfloat16)
    with pytest.raises(NotImplementedError, match="needs a TPU, the default backend is cpu"):
        pallas_kernels.flash_attention(x, x, x, implementation="mosaic_tpu")


COMPILED = (
    *cases.BENCHMARK_CASES,
    cases.Case("kanana_2_155b_16k_packed", 1, 16384, 16384, 64, 64, 192, 128, segments="documents"),
    cases.Case("128k_8_heads", 1, 131072, 131072, 8, 8, 192, 128),
)


def compile_and_print(tpu, name, *shapes):
    kernels = aot.vmem_bytes(aot.compile_for(tpu, public, *shapes))
    print(f"{name} on {tpu}:", {k: f"{v / 2**20:.1f} MiB" for k, v in kernels.items()})
    names = {name.split(".")[0] for name in kernels}
    assert names == {"flash_attention_backward", "flash_attention_forward"}


@pytest.mark.aot
@pytest.mark.parametrize("case", COMPILED, ids=lambda case: case.name)
@pytest.mark.parametrize("tpu", aot.TOPOLOGIES)
def test_compiles_for_a_tpu(tpu, case):
    compile_and_print(tpu, case.name, *shapes_of(case))


@pytest.mark.aot
@pytest.mark.parametrize("widths", dispatch.WIDTHS, ids=str)
@pytest.mark.parametrize("dtype", (jnp.bfloat16, jnp.float32))
def test_every_width_compiles_for_the_smallest_vmem(widths, dtype):
    # As many keys as VMEM holds at a time in the backward pass.
    with on("TPU v5", num_cores=2):
        num_keys = dispatch.choose_config(*widths, dtype).backward_keys // 1024 * 1024
    case = cases.Case("", 1, num_keys, num_keys, 4, 2, *widths, segments="documents")
    compile_and_print("v5p", f"{widths} {num_keys} {dtype.__name__}", *shapes_of(case, dtype))
