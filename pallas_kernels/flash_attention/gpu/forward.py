"""Forward attention for Hopper: two warpgroups compute, a third one loads.

    s = q k^T      m = max(m, c s)      p = 2^(c s - m)      out = sum p v / sum p
    with c = scale log2(e), applied in float32: the maximum is exact to float32 rounding.

Each compute warpgroup owns 64 rows of a tile of 128 queries; keys and values arrive by TMA in a
ring of shared memory. The warpgroups take turns (`turn`): one multiplies on the tensor cores
while the other computes its softmax. Scores, probabilities and the output stay in registers.

Letters: B batch, S queries, T keys, N query heads, H key heads, D query and key width, U value
width. Shared memory at D/U 192/128, 128 keys, 2 stages: q 48 KB, k 96, v 64, out 16.
"""
# Pallas does not list ACC among its exports.
# pyright: reportPrivateImportUsage=false

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper
from pallas_kernels.flash_attention.gpu import blocks

_EPILOGUE_COLS = 64


@dataclasses.dataclass(frozen=True)
class Config:
    """Tuned choices: keys per block, and how many blocks are in flight."""

    block_kv: int = 128
    num_stages: int = 2


def forward(q_BSND, k_BTHD, v_BTHU, q_ids_BS, kv_ids_BT, static: blocks.Static, config: Config):
    """Returns out (B, S, N, U), base-2 log-sum-exp and, if wanted, row maxima (B, N, padded S)."""
    batch, padded_rows, num_heads, _ = q_BSND.shape
    num_tiles = pl.cdiv(static.num_rows, blocks.TILE_Q)
    stats = jax.ShapeDtypeStruct((batch, num_heads, num_tiles * blocks.TILE_Q), jnp.float32)
    out = jax.ShapeDtypeStruct((batch, padded_rows, num_heads, v_BTHU.shape[3]), q_BSND.dtype)
    key_visits = blocks.visit_keys(q_ids_BS, kv_ids_BT, config.block_kv, static)
    body = functools.partial(
        _kernel,
        static=static,
        key_range=key_visits.of_tile,
        num_packed=len(key_visits.packed),
    )
    return plgpu.kernel(
        body,
        out_type=(out, stats, stats) if static.with_max else (out, stats),
        scratch_types=_scratch(q_BSND, v_BTHU, config),
        grid=(batch * num_heads * num_tiles,),
        grid_names=("cta",),
        kernel_name="flash_attention_forward",
        **hopper.launch(static.interpret),
    )(q_BSND, k_BTHD, v_BTHU, *key_visits.packed)


def _scratch(q, v, config):
    dtype, width, width_v = q.dtype, q.shape[3], v.shape[3]
    return blocks.key_ring(config.num_stages, config.block_kv, width, width_v, dtype) | dict(
        q_smem=hopper.tiled((hopper.COMPUTE, hopper.ROWS, width), dtype),
        out_smem=hopper.tiled((hopper.COMPUTE, hopper.ROWS, _EPILOGUE_COLS), dtype),
        stats_smem=plgpu.SMEM((hopper.COMPUTE, 2, hopper.ROWS), jnp.float32),
        q_ready=plgpu.Barrier(num_arrivals=1, num_barriers=hopper.COMPUTE),
        turn_taken=plgpu.Barrier(num_arrivals=hopper.COMPUTE, num_barriers=1),
    )


class _Memory(NamedTuple):
    """What a computing warpgroup uses: four fields are its own, the other two are shared by all."""

    q_smem: Any
    out_smem: Any
    stats_smem: Any
    q_ready: Any
    turn_taken: Any
    ring: blocks.KeyRing


def _memory(scratch, warpgroup) -> _Memory:
    names = ("q_smem", "out_smem", "stats_smem", "q_ready")
    own = {name: scratch[name].at[warpgroup] for name in names}
    ring = hopper.pick(blocks.KeyRing, scratch)
    return _Memory(**own, turn_taken=scratch["turn_taken"], ring=ring)


def _kernel(q, k, v, *rest, static, key_range, num_packed, **scratch):
    packed, (out, *stats) = rest[:num_packed], rest[num_packed:]
    place = blocks.place(q, k, v, blocks.KeyVisits(key_range, packed), static)

    def compute(warpgroup):
        row = place.tile * blocks.TILE_Q + warpgroup * hopper.ROWS
        b, rows, head = place.batch, pl.ds(row, hopper.ROWS), place.head
        outputs = (out.at[b, rows, head], *(x.at[b, head, rows] for x in stats))
        memory = _memory(scratch, warpgroup)
        _compute(q.at[b, rows, head], outputs, row, warpgroup, place, memory, static)

    def load():
        keys, values = (x.at[place.batch, :, place.kv_head] for x in (k, v))
        blocks.load_keys(keys, values, place.visits, hopper.pick(blocks.KeyRing, scratch))

    hopper.specialize(lax.axis_index("warpgroup"), compute, load)


def _compute(q, outputs, row, warpgroup, place, memory, static):
    plgpu.copy_gmem_to_smem(q, memory.q_smem, memory.q_ready)
    turn = functools.partial(_take_turn, memory.turn_taken)
    block_kv, visits = memory.ring.block_kv, place.visits

    def hide(score, block):
        return blocks.mask(score, row, block * block_kv, place.ids, static, block_kv)

    may_hide = blocks.may_hide(place.ids, block_kv, static)
    step = functools.partial(
        _step, visits=visits, may_hide=may_hide, turn=turn, memory=memory, static=static
    )
    hidden, plain = functools.partial(step, mask=hide), functools.partial(step, mask=None)
    width_v = memory.ring.v_smem.shape[2]
    carry = (
        plgpu.layout_cast(jnp.zeros((hopper.ROWS, width_v), jnp.float32), blocks.MATRIX),
        plgpu.layout_cast(jnp.full((hopper.ROWS,), -jnp.inf, jnp.float32), blocks.ROW),
        plgpu.layout_cast(jnp.zeros((hopper.ROWS,), jnp.float32), blocks.ROW),
    )
    plgpu.barrier_wait(memory.q_ready)

    @pl.when(visits.last > visits.first)
    def _():
        plgpu.barrier_wait(memory.ring.k_ready.at[0])

    pl.when(warpgroup == 1)(turn)
    if place.ids is not None:
        carry = lax.fori_loop(visits.first, visits.full_first, hidden, carry)
    carry = lax.fori_loop(visits.full_first, visits.full_last, plain, carry)
    if may_hide:
        carry = lax.fori_loop(visits.full_last, visits.last, hidden, carry)
    pl.when(warpgroup == 0)(turn)
    _finish(carry, outputs, memory)


def _take_turn(turn_taken):
    plgpu.barrier_arrive(turn_taken)
    plgpu.barrier_wait(turn_taken)


def _step(block, carry, *, mask, visits, may_hide, turn, memory, static):
    acc, m, total = carry
    ring = memory.ring
    step = block - visits.first
    slot = hopper.slot_of(step, ring.num_stages)

    def scores(acc_ref):
        plgpu.wgmma(acc_ref, memory.q_smem, ring.k_smem.at[slot].T)
        turn()
        return acc_ref[...]

    score = pl.run_scoped(scores, hopper.accumulator(hopper.ROWS, ring.block_kv))
    plgpu.barrier_arrive(ring.k_free.at[slot])
    if mask is not None:
        score = mask(score, block)
    c = static.scale * blocks.LOG2_E
    m_new = jnp.maximum(m, score.max(axis=1) * c)
    # A row that has seen nothing yet keeps m = -inf; subtract 0 there instead.
    shift = jnp.where(m_new == -jnp.inf, 0.0, m_new) if may_hide else m_new
    alpha = jnp.exp2(m - shift)
    prob = jnp.exp2(score * c - lax.broadcast_in_dim(shift, score.shape, [0]))
    acc *= lax.broadcast_in_dim(alpha, acc.shape, [0])
    total *= alpha
    weights = prob.astype(ring.v_smem.dtype)
    total += prob.sum(axis=1)
    acc, total, m_new, weights = lax.optimization_barrier((acc, total, m_new, weights))
    plgpu.barrier_wait(ring.v_ready.at[slot])
    turn()

    def wait_for_next_keys():
        @pl.when(block + 1 < visits.last)
        def _():
            plgpu.barrier_wait(ring.k_ready.at[hopper.slot_of(step + 1, ring.num_stages)])

    acc = _accumulate(acc, weights, ring.v_smem.at[slot], wait_for_next_keys, static.interpret)
    plgpu.barrier_arrive(ring.v_free.at[slot])
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


def _finish(carry, outputs, memory):
    acc, m, total = carry
    out, *stats = outputs
    stats_smem, out_smem = memory.stats_smem, memory.out_smem
    nothing = total == 0.0
    # +inf makes the probabilities of such a row 0 in the backward pass.
    stats_smem[0] = jnp.where(nothing, jnp.inf, m + jnp.log(total) * blocks.LOG2_E)
    if len(stats) == 2:
        stats_smem[1] = m * (1 / blocks.LOG2_E)
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
