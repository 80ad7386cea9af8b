"""The device cases on a Hopper GPU, through the public entry, against float64 on the GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.flash_attention import cases, reference

pytestmark = pytest.mark.gpu


@functools.partial(jax.jit, static_argnames=("causal", "deterministic"))
def attend(q, k, v, dout, ids, *, causal, deterministic):
    """((out, dq, dk, dv), max_logits) of the public entry."""
    attention = functools.partial(
        pallas_kernels.flash_attention,
        segment_ids=ids,
        causal=causal,
        deterministic=deterministic,
    )
    out, pullback, max_logits = jax.vjp(attention, q, k, v, has_aux=True)
    return (out, *pullback(dout)), max_logits


@functools.partial(jax.jit, static_argnames="causal")
def plain(q, k, v, dout, ids, *, causal):
    """The obvious implementation, in the inputs' dtype with at least a float32 softmax.

    One key head at a time, so that the scores of 16k tokens fit; in float64 it is exact. Scores are
    rounded to bfloat16 as outside jit, where XLA cannot keep the product's excess precision.
    """
    q_ids, kv_ids = (None, None) if ids is None else ids
    seen = reference.visible(q.shape[1], k.shape[1], q_ids, kv_ids, causal=causal)[:, 0]

    def attention(q_BSGD, k_BTD, v_BTU):
        score = jnp.einsum("BSGD,BTD->BGST", q_BSGD, k_BTD, precision="highest")
        if q.dtype == jnp.bfloat16:
            score = jax.lax.reduce_precision(score, exponent_bits=8, mantissa_bits=7)
        score = score.astype(jnp.promote_types(q.dtype, jnp.float32)) * q.shape[-1] ** -0.5
        score = jnp.where(seen, score, -jnp.inf)
        any_seen = seen.any(axis=-1, keepdims=True)
        prob = jax.nn.softmax(jnp.where(any_seen, score, 0.0), axis=-1) * any_seen
        out = jnp.einsum("BGST,BTU->BSGU", prob.astype(q.dtype), v_BTU, precision="highest")
        return out, score.max(axis=(2, 3))

    def of_head(arrays):
        q, k, v, dout = arrays
        out, pullback, max_logits = jax.vjp(attention, q, k, v, has_aux=True)
        return (out, *pullback(dout)), max_logits

    def split(x):  # (B, S, N, D) -> (H, B, S, G, D)
        return jnp.moveaxis(x.reshape(*x.shape[:2], k.shape[2], -1, x.shape[3]), 2, 0)

    def merge(x):
        return jnp.moveaxis(x, 0, 2).reshape(*x.shape[1:3], -1, x.shape[-1])

    by_head = (split(q), jnp.moveaxis(k, 2, 0), jnp.moveaxis(v, 2, 0), split(dout))
    (out, dq, dk, dv), max_logits = jax.lax.map(of_head, by_head)
    grads = merge(dq), jnp.moveaxis(dk, 0, 2), jnp.moveaxis(dv, 0, 2)
    return (merge(out), *grads), jnp.moveaxis(max_logits, 0, 1).reshape(q.shape[0], -1)


def inputs_of(case, dtype=jnp.bfloat16):
    *arrays, ids = cases.make_inputs(case)
    return *(jnp.asarray(x, dtype) for x in arrays), ids


@pytest.fixture(scope="module", params=cases.DEVICE_CASES, ids=lambda case: case.name)
def problem(request):
    """A case and its inputs, drawn once for all tests."""
    return request.param, inputs_of(request.param)


def norm(x):
    return float(jnp.linalg.norm(x.astype(jnp.float64).ravel()))


def test_auto_takes_the_hopper_kernels(problem):
    case, (q, k, v, _, ids) = problem
    choice = pallas_kernels.flash_attention_choice(q, k, v, segment_ids=ids, causal=case.causal)
    assert choice.implementation == "mosaic_gpu"


def test_errs_at_most_twice_as_much_as_plain_bfloat16(problem):
    case, (*arrays, ids) = problem
    modes = [attend(*arrays, ids, causal=case.causal, deterministic=x) for x in (False, True)]
    theirs, _ = plain(*arrays, ids, causal=case.causal)
    with jax.enable_x64(True):
        want, want_max = plain(*(x.astype(jnp.float64) for x in arrays), ids, causal=case.causal)
        # Gradients that cancel to 0 keep the float32 rounding of what cancels.
        cancelled = 2**-14 * max(norm(x) for x in want[1:])
        for ours, max_logits in modes:
            np.testing.assert_allclose(max_logits, want_max, rtol=1e-5)
            for name, x, y, z in zip(("out", "dq", "dk", "dv"), ours, theirs, want, strict=True):
                # Where plain bfloat16 happens to be exact, ours may still round its result once.
                rounding = 2**-9 * norm(z) + (cancelled if name != "out" else 0.0)
                assert norm(x - z) <= 2 * norm(y - z) + rounding, name


def test_deterministic_results_repeat_bit_for_bit(problem):
    case, inputs = problem
    first, again = (attend(*inputs, causal=case.causal, deterministic=True) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_float16_agrees_with_float64():
    case = next(case for case in cases.DEVICE_CASES if case.name == "mla_documents")
    *arrays, ids = inputs_of(case, jnp.float16)
    ours, _ = attend(*arrays, ids, causal=True, deterministic=False)
    with jax.enable_x64(True):
        want, _ = plain(*(x.astype(jnp.float64) for x in arrays), ids, causal=True)
        for x, y in zip(ours, want, strict=True):
            assert x.dtype == jnp.float16
            assert norm(x - y) <= 2**-9 * norm(y)
