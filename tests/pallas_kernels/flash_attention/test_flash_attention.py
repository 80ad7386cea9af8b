"""Attention against float64, its gradients, its memory, and the transforms it must survive."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_attention import (
    assert_errs_at_most_twice_as_much,
    cast_inputs,
    error,
    exact,
    jit,
    plain,
)
from jax.sharding import PartitionSpec as P

import pallas_kernels
from pallas_kernels.flash_attention import cases, xla

IMPLEMENTATIONS = ("reference", "xla")
HARD_CASES = [
    case
    for case in cases.SMALL_CASES
    if case.name.startswith(("grouped", "chunked", "documents", "unseen", "logits", "scanned_t"))
]
# Enough for the oldest jax; the rest check the same code at other shapes.
FAST_HARD_CASES = ("grouped_queries", "documents", "unseen_rows", "logits_of_1e4")
SLOW_CASES = ("odd_length", "one_token", "more_queries_than_keys", "scanned_prefill")
by_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


@functools.partial(jit, static_argnames=("implementation", "causal"))
def with_gradients(q, k, v, dout, segment_ids, *, implementation="auto", causal=True):
    """Compiled once for all cases of a shape."""

    def attention(q, k, v):
        kinds = {"segment_ids": segment_ids, "causal": causal}
        if implementation == "plain":
            return plain(q, k, v, **kinds), None
        return pallas_kernels.flash_attention(q, k, v, implementation=implementation, **kinds)

    out, pullback, max_logits = jax.vjp(attention, q, k, v, has_aux=True)
    return (out, *pullback(dout)), max_logits


def slow_unless(is_fast, *values):
    return pytest.param(*values, marks=() if is_fast else pytest.mark.slow)


@pytest.mark.parametrize(
    ("case", "implementation"),
    [
        *(slow_unless(case.name not in SLOW_CASES, case, "xla") for case in cases.SMALL_CASES),
        *(slow_unless(case.name in FAST_HARD_CASES, case, "reference") for case in HARD_CASES),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_float32_agrees_with_float64(case, implementation):
    inputs = cast_inputs(case, jnp.float32)
    got, max_logits = with_gradients(*inputs, implementation=implementation, causal=case.causal)
    want, want_max = exact(*inputs, case.causal)
    # A score of size s is rounded by s * 2^-24 * sqrt(D), and exp passes that on as relative error.
    tolerance = 2**-24 * (64 + 4 * case.largest_logit * case.qk_dim**0.5)
    size = max(np.linalg.norm(x) for x in want[1:])
    for x, y in zip(got, want, strict=True):
        assert error(x, y) <= tolerance * max(np.linalg.norm(y), size if y is not want[0] else 0)
    np.testing.assert_allclose(max_logits, want_max, rtol=1e-5)


@pytest.mark.parametrize(
    "case",
    [slow_unless(case.name in FAST_HARD_CASES, case) for case in HARD_CASES],
    ids=lambda case: case.name,
)
def test_bfloat16_errs_at_most_twice_as_much_as_plain_bfloat16(case):
    inputs = cast_inputs(case, jnp.bfloat16)
    got, max_logits = with_gradients(*inputs, implementation="xla", causal=case.causal)
    theirs, _ = with_gradients(*inputs, implementation="plain", causal=case.causal)
    for x in got:
        assert x.dtype == jnp.bfloat16
    assert_errs_at_most_twice_as_much(got, max_logits, theirs, inputs, case.causal)


def test_float16_keeps_its_dtype_and_agrees_with_float64():
    inputs = cast_inputs(cases.SMALL_CASES[0], jnp.float16)
    got, _ = with_gradients(*inputs)
    for x, y in zip(got, exact(*inputs, True)[0], strict=True):
        assert x.dtype == jnp.float16
        assert error(x, y) <= 2**-9 * np.linalg.norm(y)


@by_implementation
def test_rows_that_see_nothing_give_zero_and_pass_no_gradient(implementation):
    case = next(case for case in cases.SMALL_CASES if case.segments == "unseen_rows")
    inputs = cast_inputs(case, jnp.float32)
    (out, dq, dk, dv), max_logits = with_gradients(*inputs, implementation=implementation)
    assert (np.asarray(max_logits[0]) == -np.inf).all() and np.isfinite(max_logits[1:]).all()
    for x in (out[0], dq[0], dk[0], dv[0], out[1, ::3], dq[1, ::3]):
        np.testing.assert_array_equal(x, 0.0)


@by_implementation
def test_max_logits_have_no_gradient(implementation):
    q, k, v, _, _ = cast_inputs(cases.SMALL_CASES[0], jnp.float32)
    attention = functools.partial(pallas_kernels.flash_attention, implementation=implementation)
    for grad in jit(jax.grad(lambda *qkv: attention(*qkv)[1].sum(), (0, 1, 2)))(q, k, v):
        np.testing.assert_array_equal(grad, 0.0)


def test_scale_defaults_to_the_inverse_root_of_the_query_width():
    q, k, v, _, _ = cast_inputs(cases.SMALL_CASES[0], jnp.float32)
    attention = jit(pallas_kernels.flash_attention, static_argnames="scale")
    default = attention(q, k, v)
    given = attention(q, k, v, scale=24**-0.5)
    doubled = attention(q, k, v, scale=2 * 24**-0.5)
    np.testing.assert_array_equal(default[0], given[0])
    np.testing.assert_allclose(doubled[1], 2 * default[1], rtol=1e-6)


def temporary_bytes(length):
    def loss(q, k, v):
        return pallas_kernels.flash_attention(q, k, v, implementation="xla")[0].sum()

    x = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_grows_linearly_with_length():
    # Room for a few tiles of scores and 24 copies of an input; all scores would be 512 MiB.
    at_4k, at_8k = temporary_bytes(4096), temporary_bytes(8192)
    assert at_8k <= 2.1 * at_4k
    assert at_8k <= 24 * (8192 * 2 * 16 * 4) + 16 * (xla.SCANNED_LENGTH**2 * 2 * 4)


def test_causal_tiles_cover_half_of_the_scores():
    for length, slack in ((256, 0.65), (4096, 0.54)):
        tiles, rows, cols = xla._tiles(length, length, True)
        area = sum(tile.num_rows * tile.num_cols for tile in tiles)
        assert 0.5 * rows * cols <= area <= slack * rows * cols


def small_problem(length=48):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((4, length, 2, width), np.float32) for width in (16, 16, 8, 8)]


def value_and_grads(q, k, v, weight):
    def loss(q, k, v):
        out, max_logits = pallas_kernels.flash_attention(q, k, v, implementation="xla")
        return (out * weight).sum(), max_logits

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)


def assert_trees_close(got, want):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_vmap_is_a_batch():
    arrays = small_problem()
    (_, max_logits), grads = jit(jax.vmap(value_and_grads))(*[x[:, None] for x in arrays])
    (_, want_max_logits), want = jit(value_and_grads)(*arrays)
    assert_trees_close([max_logits[:, 0], *(x[:, 0] for x in grads)], [want_max_logits, *want])


def test_checkpoint_changes_nothing():
    q, k, v, _ = small_problem()

    def loss(q, attention):
        return (attention(q, k, v)[0] ** 2).sum()

    kept = jit(jax.grad(loss), static_argnums=1)(q, pallas_kernels.flash_attention)
    remade = jit(jax.grad(loss), static_argnums=1)(
        q, jax.checkpoint(pallas_kernels.flash_attention)
    )
    np.testing.assert_allclose(remade, kept, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_shard_map_over_batch_and_heads_changes_nothing():
    arrays = small_problem(600)  # long enough to scan
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = P("data", None, "model", None)

    def local(*arrays):
        (_, max_logits), grads = value_and_grads(*arrays)
        return max_logits, grads

    sharded = jax.shard_map(
        local, mesh=mesh, in_specs=(spec,) * 4, out_specs=(P("data", "model"), (spec,) * 3)
    )
    (_, max_logits), grads = jit(value_and_grads)(*arrays)
    assert_trees_close(jit(sharded)(*arrays), (max_logits, grads))


def test_shard_map_sums_the_gradient_of_replicated_keys():
    q, k, v, _ = small_problem()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(q, k, v):
        return (pallas_kernels.flash_attention(q, k, v)[0] ** 2).sum()

    def sharded_loss(q, k, v):
        def local(q, k, v):
            return jax.lax.psum(loss(q, k, v), "data")

        return jax.shard_map(local, mesh=mesh, in_specs=(P("data"), P(), P()), out_specs=P())(
            q, k, v
        )

    k, v = k[:1], v[:1]
    got = jit(jax.grad(sharded_loss, argnums=(0, 1, 2)))(q, k, v)

    def whole_loss(q, k, v):
        return loss(q, *(jnp.broadcast_to(x, (4, *x.shape[1:])) for x in (k, v)))

    want = jit(jax.grad(whole_loss, argnums=(0, 1, 2)))(q, k, v)
    assert_trees_close(got, want)


def test_auto_names_its_choice_and_the_reasons_against_the_others():
    q, k, v, _ = small_problem()
    choice = pallas_kernels.flash_attention_choice(q, k, v)
    assert choice.implementation == "xla"
    assert choice.implementation not in choice.reasons
    assert all(choice.reasons.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": (2, 8, 4)}, "4 dimensions"),
        ({"k": (2, 8, 4, 12)}, "must agree"),
        ({"k": (2, 8, 3, 16), "v": (2, 8, 3, 16)}, "multiple of the key heads"),
        ({"v": (2, 9, 4, 16)}, "must agree"),
        ({"k": (2, 0, 4, 16), "v": (2, 0, 4, 16)}, "must be positive"),
        ({"segment_ids": (2, 9)}, "segment_ids must be"),
        ({"implementation": "triton"}, "implementation must be"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arrays = {name: change.get(name, (2, 8, 4, 16)) for name in "qkv"}
    kwargs = {name: jnp.ones(shape) for name, shape in arrays.items()}
    if "segment_ids" in change:
        kwargs["segment_ids"] = jnp.ones(change["segment_ids"], jnp.int32)
    kwargs["implementation"] = change.get("implementation", "auto")
    with pytest.raises(ValueError, match=message):
        pallas_kernels.flash_attention(kwargs.pop("q"), kwargs.pop("k"), kwargs.pop("v"), **kwargs)


def test_mixed_and_integer_dtypes_are_refused():
    q = jnp.ones((1, 8, 2, 16))
    with pytest.raises(ValueError, match="floating-point dtype"):
        pallas_kernels.flash_attention(q, q.astype(jnp.bfloat16), q)
    with pytest.raises(ValueError, match="must be integers"):
        pallas_kernels.flash_attention(q, q, q, segment_ids=jnp.ones((1, 8)))
