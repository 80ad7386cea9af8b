"""Attention that returns each head's maximum logit and can be differentiated.

    s = scale q k^T     out = softmax(s over visible keys) v     max_logits = max of visible s

A query sees a key when their segment ids are equal and, if causal, when the key does not come
after it; with different lengths the last query is aligned with the last key.

Letters: B batch, S queries, T keys, N query heads, H key heads, D query and key width,
U value width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import manual_axes, selection
from pallas_kernels.flash_attention import reference, xla
from pallas_kernels.flash_attention.gpu import dispatch as on_gpu
from pallas_kernels.flash_attention.tpu import dispatch as on_tpu
from pallas_kernels.selection import Implementation


class Problem(NamedTuple):
    """What decides whether an implementation can run; arrays may be ShapeDtypeStructs."""

    q: Any
    k: Any
    v: Any
    is_packed: bool
    causal: bool
    platform: str


class _Kernel(NamedTuple):
    attention: Callable
    why_not: Callable[[Problem], str | None]
    has_deterministic_mode: bool = False  # the others have no faster, unrepeatable mode


# In order of preference. A kernel is `attention(q, k, v, q_ids, kv_ids, *, causal, scale)` and a
# function that returns None or the reason why a problem is beyond it.
_KERNELS = {
    "mosaic_gpu": _Kernel(on_gpu.attention, on_gpu.why_not, has_deterministic_mode=True),
    "mosaic_tpu": _Kernel(on_tpu.attention, on_tpu.why_not),
    "xla": _Kernel(xla.attention, selection.always),
    "reference": _Kernel(reference.attention, selection.always),
}


def flash_attention(
    q,
    k,
    v,
    *,
    segment_ids=None,
    causal: bool = True,
    scale: float | None = None,
    implementation: Implementation = "auto",
    deterministic: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Attends from q (B, S, N, D) to k (B, T, H, D) and v (B, T, H, U).

    Returns out (B, S, N, U) in q's dtype and max_logits (B, N) in float32 (float64 for float64
    arrays), without gradient: the largest visible score after scaling, NaN where a score is NaN,
    -inf where a head sees nothing. N is a multiple of H.
    segment_ids is an integer (B, S) array for both sides or a pair (B, S), (B, T); ids are only
    compared for equality: no value is special. A query that sees no key gets 0 and passes no
    gradient. scale defaults to D**-0.5. deterministic=True promises gradients that repeat bit for
    bit; it costs mosaic_gpu about a tenth at narrow heads and nothing elsewhere.

    Raises ValueError on shapes or dtypes that do not fit, NotImplementedError when the named
    implementation cannot run here.
    """
    q, k, v = map(jnp.asarray, (q, k, v))
    _check(q, k, v)
    q_ids, kv_ids = _split_ids(q, k, segment_ids)
    problem = _problem(q, k, v, q_ids, causal)
    kernel = _KERNELS[selection.select(_KERNELS, problem, implementation)]
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    arrays = manual_axes.align(q, k, v, q_ids, kv_ids)
    modes = {"deterministic": deterministic} if kernel.has_deterministic_mode else {}
    return kernel.attention(*arrays, causal=causal, scale=scale, **modes)


def flash_attention_choice(q, k, v, *, segment_ids=None, causal: bool = True) -> selection.Choice:
    """Says what implementation="auto" takes for these arguments on the default backend.

    In an ahead-of-time compile for a TPU, under a mesh of its devices, that TPU counts instead.
    q, k and v may be arrays or jax.ShapeDtypeStruct.
    """
    _check(q, k, v)
    return selection.choose(_KERNELS, _problem(q, k, v, _split_ids(q, k, segment_ids)[0], causal))


def _problem(q, k, v, q_ids, causal):
    return Problem(q, k, v, q_ids is not None, causal, jax.default_backend())


def _check(q, k, v):
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(
            "q, k and v need 4 dimensions (batch, length, heads, width), got shapes "
            f"{q.shape}, {k.shape}, {v.shape}; add or merge dimensions, or use jax.vmap."
        )
    if not q.dtype == k.dtype == v.dtype or not jnp.issubdtype(q.dtype, jnp.floating):
        raise ValueError(
            "q, k and v need one floating-point dtype, got "
            f"{q.dtype}, {k.dtype}, {v.dtype}; cast them first."
        )
    if k.shape[:3] != v.shape[:3] or k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3]:
        raise ValueError(
            "expected q (B, S, N, D), k (B, T, H, D), v (B, T, H, U), got shapes "
            f"{q.shape}, {k.shape}, {v.shape}; B, T, H and D must agree."
        )
    if 0 in q.shape or 0 in k.shape or 0 in v.shape or q.shape[2] % k.shape[2]:
        raise ValueError(
            "dimensions must be positive and the query heads a multiple of the key heads, got "
            f"shapes {q.shape}, {k.shape}, {v.shape}; repeat or drop key heads."
        )


def _split_ids(q, k, segment_ids):
    if segment_ids is None:
        return None, None
    pair = segment_ids if isinstance(segment_ids, tuple | list) else (segment_ids, segment_ids)
    pair = [ids if hasattr(ids, "dtype") else jnp.asarray(ids) for ids in pair]
    expected = (q.shape[:2], k.shape[:2])
    if len(pair) != 2 or tuple(ids.shape for ids in pair) != expected:
        raise ValueError(
            f"segment_ids must be one array or a pair with shapes {expected[0]} and "
            f"{expected[1]}, got {[ids.shape for ids in pair]}; pass (query_ids, key_ids) when "
            "the lengths differ."
        )
    if not all(jnp.issubdtype(ids.dtype, jnp.integer) for ids in pair):
        raise ValueError(
            f"segment_ids must be integers, got {[str(ids.dtype) for ids in pair]}; cast them."
        )
    return tuple(_int32(ids) for ids in pair)


def _int32(ids):
    is_abstract = isinstance(ids, jax.ShapeDtypeStruct)
    return jax.ShapeDtypeStruct(ids.shape, jnp.int32) if is_abstract else ids.astype(jnp.int32)
