"""Attention for Hopper GPUs in Pallas Mosaic GPU: TMA, wgmma, specialised warpgroups.

    s = scale q k^T     out = softmax(s over visible keys) v     max_logits = max of visible s

The forward pass keeps two numbers per row, lse = log2 sum 2^(log2(e) s) for the backward pass and
the row's maximum; the maximum over rows is left to XLA. The backward pass is either fused (five
products; dq tiles are added to B S N D float32 in the order they arrive) or deterministic (seven
products in two kernels, no extra memory). Measured on one H100, causal, 32 heads, 4 x 4096, forward
and backward: at 128/128 fused 467 TFLOP/s, deterministic 422; at 192/128 fused 302 (registers
spill), deterministic 452. So wide heads take the deterministic form in either mode.

Letters: B batch, S queries, T keys, N query heads, H key heads, D query and key width, U value
width.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import hopper, maxima
from pallas_kernels.flash_attention import batching, xla
from pallas_kernels.flash_attention.gpu import backward as bwd
from pallas_kernels.flash_attention.gpu import blocks
from pallas_kernels.flash_attention.gpu import forward as fwd

# Pairs (D, U) whose outputs and gradients were checked on a Hopper GPU.
WIDTHS = ((64, 64), (128, 128), (192, 128), (192, 192), (256, 256))
# dk and dv of 64 keys live in the registers of one warpgroup, (D + U) / 2 of at most 240 each;
# beyond this sum the gradient is left to XLA, which recomputes the forward pass.
MAX_BACKWARD_WIDTH = 320
_DTYPES = (jnp.bfloat16, jnp.float16)


class Config(NamedTuple):
    """What `tune` tunes."""

    forward: fwd.Config = fwd.Config()
    backward: bwd.Config = bwd.Config()


# (device kind, D, U) -> the fastest of the configurations that were timed on it, causal bf16.
TUNED = {
    ("NVIDIA H100 80GB HBM3", 192, 128): Config(fwd.Config(128, 2), bwd.Config(is_fused=False)),
    ("NVIDIA H100 80GB HBM3", 128, 128): Config(fwd.Config(128, 2), bwd.Config(is_fused=True)),
}


class _Static(NamedTuple):
    causal: bool
    scale: float
    is_fused: bool
    interpret: bool
    config: Config


def attention(
    q_BSND,
    k_BTHD,
    v_BTHU,
    q_ids_BS,
    kv_ids_BT,
    *,
    causal: bool,
    scale: float,
    deterministic: bool = False,
    config: Config | None = None,
    interpret: bool = False,
):
    """Attention and its per-head max logit; arguments are already checked and vary alike.

    deterministic=True promises bit-equal gradients from equal inputs; outputs are always bit-equal.
    """
    if scale <= 0:  # the kernels take the maximum before they scale
        q_BSND, scale = (-q_BSND, -scale) if scale else (q_BSND * 0, 1.0)
    config = config or choose_config(q_BSND.shape[3], v_BTHU.shape[3])
    is_fused = config.backward.is_fused and not deterministic
    static = _Static(causal, float(scale), is_fused, interpret, config)
    return _attention(static, q_BSND, k_BTHD, v_BTHU, q_ids_BS, kv_ids_BT)


def choose_config(width: int, width_v: int) -> Config:
    """The tuned configuration of this device and shape class, else one that fits any Hopper."""
    kind = jax.devices()[0].device_kind
    fits = fwd.Config(block_kv=128 if width + width_v <= 320 else 64)
    default = Config(fits, bwd.Config(is_fused=width + width_v <= 256))
    return TUNED.get((kind, width, width_v), default)


def why_not(problem) -> str | None:
    """The reason why these kernels cannot run a problem, or None."""
    q, v = problem.q, problem.v
    if elsewhere := hopper.why_not(problem.platform):
        return elsewhere
    if q.dtype not in _DTYPES:
        return f"it needs bfloat16 or float16, got {q.dtype}"
    if (q.shape[3], v.shape[3]) not in WIDTHS:
        return f"it needs widths (D, U) in {WIDTHS}, got {(q.shape[3], v.shape[3])}"
    return None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(static, q, k, v, q_ids, kv_ids):
    return _attention_fwd(static, q, k, v, q_ids, kv_ids)[0]


def _attention_fwd(static, q, k, v, q_ids, kv_ids):
    out, lse, max_logits = batching.over_batch(
        functools.partial(_forward, static), q, k, v, q_ids, kv_ids
    )
    return (out, max_logits), (q, k, v, q_ids, kv_ids, out, lse)


def _attention_bwd(static, residuals, cotangents):
    dout, _ = cotangents  # max_logits is a statistic: it has no gradient
    dq, dk, dv = batching.over_batch(functools.partial(_backward, static), *residuals, dout)
    return dq, dk, dv, None, None


_attention.defvjp(_attention_fwd, _attention_bwd)


def _forward(static, q, k, v, q_ids, kv_ids):
    num_rows = q.shape[1]
    kernel = _kernel_static(static, q, k)
    q, k, v = (_pad_rows(x) for x in (q, k, v))
    out, lse, row_max = fwd.forward(q, k, v, q_ids, kv_ids, kernel, static.config.forward)
    max_logits = row_max[:, :, :num_rows].max(axis=-1)
    return out[:, :num_rows], lse, maxima.of_rows(max_logits, lse[:, :, :num_rows])


def _backward(static, q, k, v, q_ids, kv_ids, out, lse, dout):
    if q.shape[3] + v.shape[3] > MAX_BACKWARD_WIDTH:
        recomputed = functools.partial(
            xla.attention,
            q_ids_BS=q_ids,
            kv_ids_BT=kv_ids,
            causal=static.causal,
            scale=static.scale,
        )
        return jax.vjp(lambda q, k, v: recomputed(q, k, v)[0], q, k, v)[1](dout)
    num_rows, num_cols = q.shape[1], k.shape[1]
    kernel = _kernel_static(static, q, k)
    delta_BSN = jnp.einsum("BSNU,BSNU->BSN", out, dout, preferred_element_type=jnp.float32)
    missing = lse.shape[2] - num_rows
    delta_BNS = jnp.pad(delta_BSN.swapaxes(1, 2), ((0, 0), (0, 0), (0, missing)))
    q, k, v, dout = (_pad_rows(x) for x in (q, k, v, dout))
    inputs = blocks.BackwardInputs(q, k, v, q_ids, kv_ids, dout, lse, delta_BNS)
    dq, dk, dv = bwd.backward(inputs, kernel, static.config.backward, static.is_fused)
    return dq[:, :num_rows], dk[:, :num_cols], dv[:, :num_cols]


def _kernel_static(static, q, k):
    return blocks.Static(q.shape[1], k.shape[1], static.causal, static.scale, static.interpret)


def _pad_rows(x_BSND):
    """TMA with a swizzle needs whole groups of 8 rows."""
    missing = -x_BSND.shape[1] % 8
    return jnp.pad(x_BSND, ((0, 0), (0, missing), (0, 0), (0, 0))) if missing else x_BSND
