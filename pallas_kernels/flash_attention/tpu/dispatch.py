"""Attention for TPUs in Pallas: one kernel forward, one deterministic kernel backward.

    s = scale q k^T     out = softmax(s over visible keys) v     max_logits = max of visible s

The forward pass keeps lse = log2 sum 2^(log2(e) s) of each row for the backward pass, and a single
number per head for max_logits. The kernels have not run on a TPU: they are interpreted in tests and
compiled for v5e, v5p, v6e and 7x.

Letters: B batch, S queries, T keys, N query heads, H key heads, D query and key width, U value
width.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import maxima
from pallas_kernels.flash_attention import batching, tiles
from pallas_kernels.flash_attention.tpu import backward as bwd
from pallas_kernels.flash_attention.tpu import blocks
from pallas_kernels.flash_attention.tpu import forward as fwd

CHIPS = tuple(pltpu.ChipVersion(name) for name in ("v5e", "v5p", "v6e", "7x"))
# Pairs (D, U) that were compiled for these chips.
WIDTHS = ((64, 64), (128, 128), (192, 128), (192, 192), (256, 256))
_DTYPES = (jnp.bfloat16, jnp.float32)
# Queries and keys of a block of scores in bfloat16; in float32 half as many. Bundles in libtpu's
# static schedule per 1024 x 1024 scores at 192/128, forward / backward, an estimate of cycles:
#                   v5p            v6e
#    512 x  512    10.1k / 27.6k   6.5k / 13.8k
#   1024 x 1024     8.2k / 17.8k   4.0k /  7.5k
#   1024 x 2048     7.7k / 16.0k   3.5k /  6.3k
# Longer blocks waste more of the causal diagonal: at 4096 tokens 1024 keys visit 62 % of the
# scores, 2048 keys 75 %. A block is 0.67 GFLOP forward and 1.7 backward: at 1.75 GHz that schedule
# reaches 63 and 75 % of v5p's peak, 65 and 89 % of v6e's. HBM bounds neither: even read anew for
# each tile, a block of keys and values takes 0.6 us of a v5p core, and its products at peak 2.9.
BLOCK = 1024
# VMEM left to what does not grow with the keys: blocks of scores in flight, and queries. The
# compiler took 9 to 12 MiB.
TILE_BYTES = 14 << 20
# Packed tiles in a batch: their table of visited blocks takes half of the 1 MiB of scalar memory.
MAX_PACKED_TILES = 1 << 15


class Config(NamedTuple):
    """The longest parts into which a sequence is cut; `..._keys` is what VMEM holds at a time."""

    block_q: int
    block_kv: int
    forward_keys: int
    backward_keys: int
    vmem_bytes: int


class _Static(NamedTuple):
    causal: bool
    scale: float
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
    config: Config | None = None,
    interpret: bool = False,
):
    """Attention and its per-head max logit; arguments are already checked and vary alike."""
    if scale <= 0:  # the kernels take the maximum before they scale
        q_BSND, scale = (-q_BSND, -scale) if scale else (q_BSND * 0, 1.0)
    if config is None:
        config = choose_config(q_BSND.shape[3], v_BTHU.shape[3], q_BSND.dtype)
    static = _Static(causal, float(scale), interpret, config)
    return _attention(static, q_BSND, k_BTHD, v_BTHU, q_ids_BS, kv_ids_BT)


def choose_config(width: int, width_v: int, dtype) -> Config:
    """The longest parts that fit the VMEM of the TPU that JAX compiles for.

    At 192/128 in bfloat16, v5p (64 MiB) holds 33k keys forward and 11k backward, v5e and v6e
    (128 MiB) 77k and 25k.
    """
    vmem_bytes = pltpu.get_tpu_info().vmem_capacity_bytes
    size = jnp.dtype(dtype).itemsize
    lanes = sum(pl.cdiv(x, blocks.LANES) * blocks.LANES for x in (width, width_v))
    block = 2 * BLOCK // size
    room = vmem_bytes - TILE_BYTES
    # Keys and values come in two buffers each. Backward, so do their gradients on the way out,
    # which also gather in float32.
    forward_keys = room // (2 * lanes * size)
    backward_keys = room // (4 * lanes * size + 4 * lanes)
    return Config(block, block, forward_keys, backward_keys, vmem_bytes)


def why_not(problem) -> str | None:
    """The reason why these kernels cannot run a problem, or None."""
    q, v = problem.q, problem.v
    if not pltpu.is_tpu_device():
        return f"it needs a TPU, the default backend is {problem.platform}"
    chip = pltpu.get_tpu_info().chip_version
    if chip not in CHIPS:
        return f"it needs one of the TPUs {', '.join(map(str, CHIPS))}, got {chip}"
    if q.dtype not in _DTYPES:
        return f"it needs bfloat16 or float32, got {q.dtype}"
    if (q.shape[3], v.shape[3]) not in WIDTHS:
        return f"it needs widths (D, U) in {WIDTHS}, got {(q.shape[3], v.shape[3])}"
    num_tiles = q.shape[0] * pl.cdiv(q.shape[1], 2 * BLOCK // q.dtype.itemsize)
    if problem.is_packed and num_tiles > MAX_PACKED_TILES:
        return f"it needs at most {MAX_PACKED_TILES} packed tiles of queries, got {num_tiles}"
    return None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(static, q, k, v, q_ids, kv_ids):
    return _attention_fwd(static, q, k, v, q_ids, kv_ids)[0]


def _attention_fwd(static, q, k, v, q_ids, kv_ids):
    forward = functools.partial(_forward, static)
    out, lse, max_logits = batching.over_batch(forward, q, k, v, q_ids, kv_ids)
    return (out, max_logits), (q, k, v, q_ids, kv_ids, out, lse)


def _attention_bwd(static, residuals, cotangents):
    dout, _ = cotangents  # max_logits is a statistic: it has no gradient
    backward = functools.partial(_backward, static)
    dq, dk, dv = batching.over_batch(backward, *residuals, dout)
    return dq, dk, dv, None, None


_attention.defvjp(_attention_fwd, _attention_bwd)


def _forward(static, q, k, v, q_ids, kv_ids):
    sizes = _sizes(static, q, k, static.config.forward_keys)
    queries, keys, values, ids = _kernel_layout(sizes, q, k, v, q_ids, kv_ids)
    out, lse, max_logits = fwd.forward(queries, keys, values, ids, sizes)
    max_logits = maxima.of_rows(max_logits, lse[:, :, 0, : q.shape[1]])
    return _user_layout(out, q), lse, max_logits


def _backward(static, q, k, v, q_ids, kv_ids, out, lse, dout):
    sizes = _sizes(static, q, k, static.config.backward_keys)
    queries, keys, values, ids = _kernel_layout(sizes, q, k, v, q_ids, kv_ids)
    out_BNSU, dout_BNSU = (_heads_first(x, sizes.block_q) for x in (out, dout))
    delta_BNS = (out_BNSU.astype(jnp.float32) * dout_BNSU.astype(jnp.float32)).sum(axis=-1)
    delta_BN1S = delta_BNS[:, :, None]
    dq, dk, dv = bwd.backward(queries, keys, values, ids, dout_BNSU, lse, delta_BN1S, sizes)
    return _user_layout(dq, q), _user_layout(dk, k), _user_layout(dv, v)


def _sizes(static, q, k, keys) -> blocks.Static:
    num_rows, num_cols, config = q.shape[1], k.shape[1], static.config
    block_kv = _part(num_cols, config.block_kv, blocks.LANES)
    return blocks.Static(
        num_rows=num_rows,
        num_cols=num_cols,
        causal=static.causal,
        scale=static.scale,
        block_q=_part(num_rows, config.block_q, blocks.LANES),
        block_kv=block_kv,
        chunk=block_kv * _part(pl.cdiv(num_cols, block_kv), keys // block_kv, 1),
        vmem_bytes=config.vmem_bytes,
        interpret=static.interpret,
    )


def _part(length: int, limit: int, multiple: int) -> int:
    """The length of equal parts of at most `limit`, rounded up to a multiple."""
    part = pl.cdiv(length, pl.cdiv(length, limit))
    return pl.cdiv(part, multiple) * multiple


def _kernel_layout(sizes, q, k, v, q_ids, kv_ids):
    """Heads before rows, whole tiles and chunks; ids as a pair of (B, 1, 1, length), or ()."""
    ids = ()
    if q_ids is not None:
        ids = tiles.pad_ids(q_ids, sizes.block_q), tiles.pad_ids(kv_ids, sizes.chunk)
    rows, cols = sizes.block_q, sizes.chunk
    arrays = (_heads_first(x, n) for x, n in zip((q, k, v), (rows, cols, cols), strict=True))
    return *arrays, tuple(x[:, None, None] for x in ids)


def _heads_first(x_BSND, multiple: int):
    missing = -x_BSND.shape[1] % multiple
    return jnp.pad(x_BSND.swapaxes(1, 2), ((0, 0), (0, 0), (0, missing), (0, 0)))


def _user_layout(x_BNSD, like):
    return x_BNSD[:, :, : like.shape[1]].swapaxes(1, 2)
