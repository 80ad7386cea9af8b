"""Forward attention for Hopper: two warpgroups compute, a third one loads.

    s = q k^T      m = max(m, c s)      p = 2^(c s - m)      out = sum p v / sum p
    with c = scale log2(e), applied in float32: the maximum is exact to float32 rounding.

Each compute warpgroup owns 64 rows of a tile of 128 queries; keys and values arrive by TMA in a
ring of shared memory. The warpgroups take turns (`turn`): one multiplies on the tensor cores
while the other is at its softmax. Scores, probabilities and the output stay in registers.

Letters: B batch, S queries, T keys, N query heads, H key heads, D query and key width, U value
width. Shared memory at D/U 192/128, 128 keys, 2 stages: q 48 KB, k 96, v 64, out 16.
"""
# Pallas does not list ACC among its exports and leaves its transforms abstract.
# pyright: reportPrivateImportUsage=false, reportAbstractUsage=false

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.flash_attention import tiles
from pallas_kernels.flash_attention.gpu import order

ROWS = 64  # rows of one warpgroup: the M of a wgmma instruction
TILE_Q = 2 * ROWS
LOG2_E = math.log2(math.e)
_MATRIX, _ROW = plgpu.Layout.WGMMA, plgpu.Layout.WGMMA.reduce(1)
_COL = plgpu.Layout.WGMMA.reduce(0)
_EPILOGUE_COLS = 64


@dataclasses.dataclass(frozen=True)
class Config:
    """Tuned choices: keys per block, and how many blocks are in flight."""

    block_kv: int = 128
    num_stages: int = 2


@dataclasses.dataclass(frozen=True)
class Static:
    """What is fixed at trace time; the arrays' lengths are these, padded to multiples of 8."""

    num_rows: int
    num_cols: int
    causal: bool
    scale: float
    interpret: bool = False
    with_max: bool = True  # without, the benchmark measures what row maxima cost


def forward(q_BSND, k_BTHD, v_BTHU, q_ids_BS, kv_ids_BT, static: Static, config: Config):
    """Returns out (B, S, N, U), base-2 log-sum-exp and, if wanted, row maxima (B, N, padded S)."""
    batch, padded_rows, num_heads, _ = q_BSND.shape
    num_tiles = pl.cdiv(static.num_rows, TILE_Q)
    stats = jax.ShapeDtypeStruct((batch, num_heads, num_tiles * TILE_Q), jnp.float32)
    out = jax.ShapeDtypeStruct((batch, padded_rows, num_heads, v_BTHU.shape[3]), q_BSND.dtype)
    key_range = functools.partial(
        tiles.key_range,
        tile_q=TILE_Q,
        block_kv=config.block_kv,
        num_rows=static.num_rows,
        num_cols=static.num_cols,
        causal=static.causal,
    )
    packed = ()
    if q_ids_BS is not None:
        q_ids, kv_ids = tiles.pad_ids(q_ids_BS, TILE_Q), tiles.pad_ids(kv_ids_BT, config.block_kv)
        by_causality = key_range(jnp.arange(num_tiles, dtype=jnp.int32))
        table = tiles.segment_ranges(
            q_ids, kv_ids, tile=TILE_Q, block=config.block_kv, ranges=by_causality
        )
        packed = (table, q_ids, kv_ids)
    body = functools.partial(
        _kernel, static=static, config=config, key_range=key_range, num_packed=len(packed)
    )
    num_ctas = batch * num_heads * num_tiles
    return plgpu.kernel(
        body,
        out_type=(out, stats, stats) if static.with_max else (out, stats),
        scratch_types=_scratch(q_BSND, v_BTHU, config),
        grid=(num_ctas,),
        kernel_name="flash_attention_forward",
        **launch(static.interpret),
    )(q_BSND, k_BTHD, v_BTHU, *packed)


def launch(interpret: bool) -> dict:
    """Keywords of every kernel here: two compute warpgroups and one that loads, per block."""
    return dict(
        grid_names=("cta",),
        num_threads=3,
        thread_name="warpgroup",
        interpret=plgpu.InterpretGPUParams(detect_races=True) if interpret else None,
        compiler_params=plgpu.CompilerParams(
            approx_math=True,
            unsafe_no_auto_barriers=True,
            reduction_scratch_bytes=0,
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup,
        ),
    )


class Place(NamedTuple):
    """What one block works on: a tile of queries of one head, and the keys it visits."""

    batch: jax.Array
    head: jax.Array
    kv_head: jax.Array
    tile: jax.Array
    visits: tiles.Range
    ids: tuple | None


def place(q, k, v, packed, key_range, static) -> Place:
    """Where the running block stands, among tiles of TILE_Q queries."""
    batch, _, num_heads, _ = q.shape
    num_tiles = pl.cdiv(static.num_rows, TILE_Q)
    bytes_per_head = k.shape[1] * (k.shape[3] + v.shape[3]) * 2 * k.shape[2] // num_heads
    together = order.side_by_side(batch * num_heads, bytes_per_head)
    bh, position = order.decode(lax.axis_index("cta"), num_tiles=num_tiles, heads_together=together)
    tile = num_tiles - 1 - position  # the last tiles see most keys: longest first
    b, head = lax.div(bh, np.int32(num_heads)), lax.rem(bh, np.int32(num_heads))
    kv_head = lax.div(head, np.int32(num_heads // k.shape[2]))
    if packed:
        table, q_ids, kv_ids = packed
        visits = tiles.read_range(table, b, tile)
        return Place(b, head, kv_head, tile, visits, (q_ids.at[b], kv_ids.at[b]))
    return Place(b, head, kv_head, tile, key_range(tile), None)


def _scratch(q, v, config):
    dtype, width, width_v = q.dtype, q.shape[3], v.shape[3]
    stages, block = config.num_stages, config.block_kv
    return dict(
        q_smem=tiled((2, ROWS, width), dtype),
        k_smem=tiled((stages, block, width), dtype),
        v_smem=tiled((stages, block, width_v), dtype),
        out_smem=tiled((2, ROWS, _EPILOGUE_COLS), dtype),
        stats_smem=plgpu.SMEM((2, 2, ROWS), jnp.float32),
        q_ready=plgpu.Barrier(num_arrivals=1, num_barriers=2),
        k_ready=plgpu.Barrier(num_arrivals=1, num_barriers=stages),
        v_ready=plgpu.Barrier(num_arrivals=1, num_barriers=stages),
        k_free=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        v_free=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        turn_taken=plgpu.Barrier(num_arrivals=2, num_barriers=1),
    )


def _kernel(q, k, v, *rest, static, config, key_range, num_packed, **scratch):
    packed, (out, *stats) = rest[:num_packed], rest[num_packed:]
    b, head, kv_head, tile, visits, ids = place(q, k, v, packed, key_range, static)
    warpgroup = lax.axis_index("warpgroup")

    @pl.when(warpgroup < 2)
    def _():
        plgpu.set_max_registers(240, action="increase")
        row = tile * TILE_Q + warpgroup * ROWS
        rows = pl.ds(row, ROWS)
        outputs = (out.at[b, rows, head], *(x.at[b, head, rows] for x in stats))
        q_rows = q.at[b, rows, head]
        _compute(q_rows, outputs, ids, visits, warpgroup, row, static, config, **scratch)

    @pl.when(warpgroup == 2)
    def _():
        plgpu.set_max_registers(24, action="decrease")
        keys, values = k.at[b, :, kv_head], v.at[b, :, kv_head]
        load_keys(keys, values, visits, config.block_kv, config.num_stages, **scratch)


def load_keys(k, v, visits, block_kv, num_stages, *, k_smem, v_smem, k_ready, v_ready, k_free,
              v_free, **_):  # fmt: skip
    """The loading warpgroup: streams the visited blocks of keys and values through the ring."""

    @pl.loop(visits.first, visits.last)
    def _(block):
        step = block - visits.first
        slot = lax.rem(step, np.int32(num_stages))
        rows = pl.ds(block * block_kv, block_kv)
        for source, target, ready, free in (
            (k, k_smem, k_ready, k_free),
            (v, v_smem, v_ready, v_free),
        ):

            @pl.when(step >= num_stages)
            def _(free=free):
                plgpu.barrier_wait(free.at[slot])

            plgpu.copy_gmem_to_smem(source.at[rows], target.at[slot], ready.at[slot])

    # A block must not end, nor interpret mode, with releases that nobody has seen.
    @pl.loop(jnp.maximum(visits.first, visits.last - num_stages), visits.last)
    def _(block):
        slot = lax.rem(block - visits.first, np.int32(num_stages))
        plgpu.barrier_wait(k_free.at[slot])
        plgpu.barrier_wait(v_free.at[slot])


def _compute(q, outputs, ids, visits, warpgroup, row, static, config, *,
             q_smem, q_ready, turn_taken, **scratch):  # fmt: skip
    q_smem, q_ready = q_smem.at[warpgroup], q_ready.at[warpgroup]
    plgpu.copy_gmem_to_smem(q, q_smem, q_ready)

    def turn():
        plgpu.barrier_arrive(turn_taken)
        plgpu.barrier_wait(turn_taken)

    def hide(score, block):
        return mask(score, row, block * config.block_kv, ids, static, config.block_kv)

    loop = functools.partial(
        _step, visits=visits, q_smem=q_smem, turn=turn, static=static, config=config, **scratch
    )
    may_hide = static.causal or ids is not None or static.num_cols % config.block_kv != 0
    hidden = functools.partial(loop, mask=hide, may_hide=may_hide)
    plain = functools.partial(loop, mask=None, may_hide=may_hide)
    width_v = scratch["v_smem"].shape[2]
    carry = (
        plgpu.layout_cast(jnp.zeros((ROWS, width_v), jnp.float32), _MATRIX),
        plgpu.layout_cast(jnp.full((ROWS,), -jnp.inf, jnp.float32), _ROW),
        plgpu.layout_cast(jnp.zeros((ROWS,), jnp.float32), _ROW),
    )
    plgpu.barrier_wait(q_ready)

    @pl.when(visits.last > visits.first)
    def _():
        plgpu.barrier_wait(scratch["k_ready"].at[0])

    pl.when(warpgroup == 1)(turn)
    if ids is not None:
        carry = lax.fori_loop(visits.first, visits.full_first, hidden, carry)
    carry = lax.fori_loop(visits.full_first, visits.full_last, plain, carry)
    if may_hide:
        carry = lax.fori_loop(visits.full_last, visits.last, hidden, carry)
    pl.when(warpgroup == 0)(turn)
    _finish(carry, outputs, warpgroup, **scratch)


def _step(block, carry, *, visits, q_smem, turn, mask, may_hide, static, config,
          k_smem, v_smem, k_ready, v_ready, k_free, v_free, **_):  # fmt: skip
    acc, m, total = carry
    stages = np.int32(config.num_stages)
    step = block - visits.first
    slot = lax.rem(step, stages)

    def scores(acc_ref):
        plgpu.wgmma(acc_ref, q_smem, k_smem.at[slot].T)
        turn()
        return acc_ref[...]

    score = pl.run_scoped(scores, accumulator(ROWS, config.block_kv))
    plgpu.barrier_arrive(k_free.at[slot])
    if mask is not None:
        score = mask(score, block)
    c = static.scale * LOG2_E
    m_new = jnp.maximum(m, score.max(axis=1) * c)
    # A row that has seen nothing yet keeps m = -inf; subtract 0 there instead.
    shift = jnp.where(m_new == -jnp.inf, 0.0, m_new) if may_hide else m_new
    alpha = jnp.exp2(m - shift)
    prob = jnp.exp2(score * c - lax.broadcast_in_dim(shift, score.shape, [0]))
    acc *= lax.broadcast_in_dim(alpha, acc.shape, [0])
    total *= alpha
    weights = prob.astype(v_smem.dtype)
    total += prob.sum(axis=1)
    acc, total, m_new, weights = lax.optimization_barrier((acc, total, m_new, weights))
    plgpu.barrier_wait(v_ready.at[slot])
    turn()

    def wait_for_next_keys():
        @pl.when(block + 1 < visits.last)
        def _():
            plgpu.barrier_wait(k_ready.at[lax.rem(step + 1, stages)])

    acc = _accumulate(acc, weights, v_smem.at[slot], wait_for_next_keys, static.interpret)
    plgpu.barrier_arrive(v_free.at[slot])
    return acc, m_new, total


def _accumulate(acc, lhs, rhs, meanwhile, interpret):
    if interpret:  # it has no accumulator that starts from a value, no operand in registers
        meanwhile()
        product = lhs.astype(jnp.float32) @ rhs[...].astype(jnp.float32)
        plgpu.commit_smem()  # unlike wgmma, this read is not yet ordered before the next copy
        return acc + product

    def product(acc_ref):
        plgpu.wgmma(acc_ref, lhs, rhs)
        meanwhile()

    return pl.run_state(product)(plgpu.ACC.init(acc))


def mask(score, row, col, ids, static, block_kv):
    """Scores (queries, keys) from the given corner, -inf where not visible."""

    def iota(axis):
        return plgpu.broadcasted_iota(jnp.int32, score.shape, axis, layout=_MATRIX)

    seen = None
    if static.causal:
        seen = iota(0) + (row + static.num_cols - static.num_rows - col) >= iota(1)
    elif static.num_cols % block_kv:
        seen = iota(1) < static.num_cols - col
    if ids is not None:
        q_ids = _load_ids(ids[0], row, ROWS, _ROW)
        kv_ids = _load_ids(ids[1], col, score.shape[1], _COL)
        same = lax.broadcast_in_dim(q_ids, score.shape, [0]) == lax.broadcast_in_dim(
            kv_ids, score.shape, [1]
        )
        seen = same if seen is None else seen & same
    assert seen is not None  # callers ask only where something may be hidden
    return jnp.where(seen, score, -jnp.inf)


def _load_ids(ids, start, size, layout):
    return plgpu.load(ids.at[pl.ds(start, size)], layout=layout, optimized=False)


def _finish(carry, outputs, warpgroup, *, out_smem, stats_smem, **_):
    acc, m, total = carry
    out, *stats = outputs
    stats_smem, out_smem = stats_smem.at[warpgroup], out_smem.at[warpgroup]
    nothing = total == 0.0
    # +inf makes the probabilities of such a row 0 in the backward pass.
    stats_smem[0] = jnp.where(nothing, jnp.inf, m + jnp.log(total) * LOG2_E)
    if len(stats) == 2:
        stats_smem[1] = m * (1 / LOG2_E)
    plgpu.commit_smem()
    for i, target in enumerate(stats):
        plgpu.copy_smem_to_gmem(stats_smem.at[i], target)
    inverse = jnp.where(nothing, 0.0, 1.0 / total)
    acc *= lax.broadcast_in_dim(inverse, acc.shape, [0])
    for start in range(0, acc.shape[1], _EPILOGUE_COLS):
        cols = slice(start, start + _EPILOGUE_COLS)
        if start:
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        out_smem[...] = acc[:, cols].astype(out_smem.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(out_smem, out.at[:, cols])
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def accumulator(num_rows, num_cols):
    """Float32 registers that wgmma adds to, zero at first."""
    return plgpu.ACC((num_rows, num_cols), jnp.float32)


def tiled(shape, dtype):
    """Shared memory in the 128-byte swizzle that TMA writes and wgmma reads."""
    cols = 128 // jnp.dtype(dtype).itemsize
    return plgpu.SMEM(
        shape, dtype, transforms=(plgpu.TilingTransform((8, cols)), plgpu.SwizzleTransform(128))
    )
