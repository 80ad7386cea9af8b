"""Attention of this package, of jax.nn with cuDNN and of tokamax on the same inputs."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np

import pallas_kernels
from pallas_kernels.bench import timing
from pallas_kernels.flash_attention import cases
from pallas_kernels.flash_attention.gpu import blocks, dispatch, forward

OPS = ("forward", "forward+backward")


def flops(case: cases.Case, segment_ids) -> dict[str, float]:
    """Model FLOPs of each op."""
    pairs = float(case.batch * case.q_len * case.kv_len)
    if segment_ids is not None:
        pairs = 0.0
        for q_ids, kv_ids in zip(*segment_ids, strict=True):
            pairs += sum((q_ids == i).sum() * float((kv_ids == i).sum()) for i in np.unique(q_ids))
    pairs *= case.num_heads * (0.5 if case.causal else 1.0)
    forward = 2 * pairs * (case.qk_dim + case.v_dim)
    backward = 2 * pairs * (3 * case.qk_dim + 2 * case.v_dim)
    return dict(zip(OPS, (forward, forward + backward), strict=True))


def rows(case: cases.Case) -> list[timing.Row]:
    """Every implementation's forward pass, and forward and backward pass."""
    *arrays, segment_ids = cases.make_inputs(case)
    q, k, v, dout = (jnp.asarray(x, jnp.bfloat16) for x in arrays)
    work = flops(case, segment_ids)
    kinds = {"segment_ids": segment_ids, "causal": case.causal}
    choice = pallas_kernels.flash_attention_choice(q, k, v, **kinds).implementation
    ours = functools.partial(pallas_kernels.flash_attention, **kinds)
    found = _both(case.name, f"ours ({choice})", ours, (q, k, v, dout), work, has_aux=True)
    if choice == "mosaic_gpu":  # the others have one mode
        repeatable = functools.partial(ours, deterministic=True)
        name = f"ours ({choice}, deterministic)"
        found += _both(case.name, name, repeatable, (q, k, v, dout), work, has_aux=True)
        if segment_ids is None:
            found += _cost_of_max(case, q, k, v, work[OPS[0]])
    for name, peer, reason in _peers(case, segment_ids):
        if reason:
            found += [timing.Row(case.name, op, name, None, None, reason) for op in OPS]
        else:
            found += _both(case.name, name, peer, (q, k, v, dout), work)
    return found


def _both(case, name, attention, inputs, work, has_aux=False):
    def gradients(q, k, v, dout):
        out, pullback, *aux = jax.vjp(attention, q, k, v, has_aux=has_aux)
        return out, pullback(dout), aux

    runs = (
        functools.partial(jax.jit(attention), *inputs[:3]),
        functools.partial(jax.jit(gradients), *inputs),
    )
    return [
        timing.attempt(case, op, name, work[op], run, jax.block_until_ready)
        for op, run in zip(OPS, runs, strict=True)
    ]


def _cost_of_max(case, q, k, v, flops):
    """Our Hopper forward kernel with row maxima and without, in turn."""
    config = dispatch.choose_config(q.shape[3], v.shape[3]).forward
    scale = q.shape[3] ** -0.5
    names, runs = ("with max logits", "no max logits"), []
    for with_max in (True, False):
        static = blocks.Static(q.shape[1], k.shape[1], case.causal, scale, with_max=with_max)
        kernel = functools.partial(forward.forward, static=static, config=config)
        runs.append(functools.partial(jax.jit(kernel), q, k, v, None, None))
    times = timing.measure_in_turn(runs, jax.block_until_ready, num_blocks=31)
    return [
        timing.Row(case.name, "forward kernel", f"ours ({name})", ms, flops / ms / 1e9)
        for name, ms in zip(names, times, strict=True)
    ]


def _peers(case, segment_ids):
    """(name, attention or None, reason or None) of each peer in JAX."""
    general = None
    if jax.default_backend() != "gpu":
        general = f"needs an NVIDIA GPU, JAX runs on {jax.default_backend()}"
    elif segment_ids is not None:
        general = "has no segment ids, only masks of all scores"
    yield "jax.nn cudnn", functools.partial(_cudnn, causal=case.causal), general
    try:
        tokamax = importlib.import_module("tokamax")
    except ImportError as error:
        yield "tokamax", None, f"not importable: {error}"
        return
    peer = functools.partial(
        tokamax.dot_product_attention, is_causal=case.causal, implementation="mosaic"
    )
    yield "tokamax", peer, general


def _cudnn(q, k, v, *, causal):
    """cuDNN through jax.nn wants values as wide as keys."""
    missing = q.shape[3] - v.shape[3]
    wide = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, missing)))
    out = jax.nn.dot_product_attention(q, k, wide, is_causal=causal, implementation="cudnn")
    return out[..., : v.shape[3]]
