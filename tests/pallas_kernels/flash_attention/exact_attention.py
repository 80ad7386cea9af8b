"""Attention, exact in float64 and plain in 16 bits, to compare kernels with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.flash_attention import cases, reference

# Compiling costs more than running these, and rounding does not depend on the compiler's effort.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def exact(q, k, v, dout, segment_ids, causal):
    """Output, max logits and gradients in float64 numpy."""
    q, k, v, dout = (np.asarray(x, np.float64) for x in (q, k, v, dout))
    group = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
    seen = np.ones((1, 1, q.shape[1], k.shape[1]), bool)
    if causal:
        seen = seen & np.tri(q.shape[1], k.shape[1], k.shape[1] - q.shape[1], dtype=bool)
    if segment_ids is not None:
        seen = seen & (segment_ids[0][:, None, :, None] == segment_ids[1][:, None, None, :])
    scale = q.shape[-1] ** -0.5
    score = np.where(seen, scale * np.einsum("bqhd,bkhd->bhqk", q, k), -np.inf)
    row_max = score.max(axis=-1, keepdims=True)
    prob = np.exp(score - np.where(np.isinf(row_max), 0.0, row_max))
    prob /= np.maximum(prob.sum(axis=-1, keepdims=True), 1e-300)
    out = np.einsum("bhqk,bkhd->bqhd", prob, v)
    dprob = np.einsum("bqhd,bkhd->bhqk", dout, v)
    dscore = scale * prob * (dprob - (prob * dprob).sum(axis=-1, keepdims=True))
    dq = np.einsum("bhqk,bkhd->bqhd", dscore, k)
    dk = np.einsum("bhqk,bqhd->bkhd", dscore, q)
    dv = np.einsum("bhqk,bqhd->bkhd", prob, dout)
    dk, dv = (x.reshape(*x.shape[:2], -1, group, x.shape[-1]).sum(axis=3) for x in (dk, dv))
    return (out, dq, dk, dv), score.max(axis=(2, 3))


def plain(q, k, v, segment_ids, causal):
    """The obvious implementation: products in the inputs' dtype, softmax in float32."""
    group = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, group, axis=2), jnp.repeat(v, group, axis=2)
    score = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
    ids = (None, None) if segment_ids is None else segment_ids
    seen = reference.visible(q.shape[1], k.shape[1], *ids, causal=causal)[:, 0]
    score = jnp.where(seen, score, -1e30)
    prob = jax.nn.softmax(score, axis=-1) * seen.any(axis=-1, keepdims=True)
    return jnp.einsum("bhqk,bkhd->bqhd", prob.astype(q.dtype), v)


def cast_inputs(case, dtype):
    q, k, v, dout, segment_ids = cases.make_inputs(case)
    q, k, v, dout = (jnp.asarray(x, dtype) for x in (q, k, v, dout))
    return q, k, v, dout, segment_ids


def error(got, want):
    assert np.isfinite(np.asarray(got, np.float64)).all()
    return np.linalg.norm(np.asarray(got, np.float64) - want)


def assert_errs_at_most_twice_as_much(got, max_logits, theirs, inputs, causal):
    """got and theirs are (out, dq, dk, dv) of a kernel and of `plain`; max logits are exact."""
    want, want_max = exact(*inputs, causal)
    # Gradients that cancel to 0 keep the float32 rounding of what cancels.
    cancelled = 2**-14 * max(np.linalg.norm(x) for x in want[1:])
    for x, y, z in zip(got, theirs, want, strict=True):
        # Where plain bfloat16 happens to be exact, ours may still round its result once.
        rounding = 2**-9 * np.linalg.norm(z) + (cancelled if z is not want[0] else 0.0)
        assert error(x, z) <= 2 * error(y, z) + rounding
    np.testing.assert_allclose(max_logits, want_max, rtol=1e-5)
