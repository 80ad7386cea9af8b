"""The up product of SwiGLU experts on Hopper, of FP8, with results that are FP8 when they leave.

    h[m] = x[m] w[e(m)]^T        act = silu(gate half of h) * up half of h        Q(h), Q(act)

Q is E4M3 in rows of 128 with a scale each. A tile has 128 columns of the gate and the same ones of
the up half: one block of each, and of act. So a block of threads has in its registers what a scale
is found from, and 2 F + F bytes of a row leave, not the 6 F of 16-bit h and act: 113 MB at
(49152, 1536).

act is made from h in x's dtype, before Q. With a clamp see `swiglu`.

A group begins at any row, but TMA and registers write 64 scales at once. So they go to slots of 64:
rows from r on of expert e to slot r / 64 + e, which no other rows have, and XLA sorts them.

Letters: M rows sorted by expert, E experts, F expert width, D hidden width, J = F / 128, S places
in slots.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels import hopper
from pallas_kernels.grouped_matmul.gpu import block_scaled, ring
from pallas_kernels.quantize import formats
from pallas_kernels.quantize.gpu import blocks

SIDE = formats.SIDE
CONFIG = block_scaled.Config(num_compute=2, tile_n=2 * SIDE)


def up(
    x_MD,
    scales_MI,
    w_gate_up_E2FD,
    w_scales,
    group_sizes_E,
    *,
    dtype,
    scale: formats.Scale,
    clamp: float | None,
    config: block_scaled.Config = CONFIG,
    interpret: bool,
):
    """Values of h (M, 2F) and act (M, F), and their scales (M, 2J) and (M, J).

    M is a multiple of 8, D and F of 128; w_gate_up is (E, 2F, D) with scales (E, 2J, D / 128).
    Scales of rows beyond the groups are 1.
    """
    assert config.tile_n == 2 * SIDE == 2 * config.part_n
    num_rows, width = x_MD.shape[0], w_gate_up_E2FD.shape[1] // 2
    num_tiles, num_slots = width // SIDE, _slot(num_rows, group_sizes_E.shape[0]) + 1
    tile = block_scaled.Tile(
        lambda col, start: col * SIDE + start % SIDE + start // SIDE * width,
        functools.partial(_store, width, dtype, scale, clamp),
    )
    out_types = [
        jax.ShapeDtypeStruct((num_rows, 2 * width), formats.VALUES),
        jax.ShapeDtypeStruct((num_rows, width), formats.VALUES),
        jax.ShapeDtypeStruct((3 * num_tiles, num_slots * hopper.ROWS), jnp.float32),
    ]
    arrays = x_MD, scales_MI, w_gate_up_E2FD, w_scales, group_sizes_E
    call = functools.partial(block_scaled.call, config=config, interpret=interpret)
    h, act, scales_3JS = call(tile, num_tiles, out_types, *arrays)
    place_M = _places(num_rows, group_sizes_E)
    is_here_M = jnp.arange(num_rows) < group_sizes_E.sum()
    scales_M3J = jnp.where(is_here_M, scales_3JS[:, place_M], 1.0).T
    return h, act, scales_M3J[:, : 2 * num_tiles], scales_M3J[:, 2 * num_tiles :]


def _slot(row, expert):
    return row // hopper.ROWS + expert


def _places(num_rows, group_sizes_E):
    """Where in the slots the scales of each row lie."""
    end_E = jnp.cumsum(group_sizes_E)
    row_M = jnp.arange(num_rows, dtype=jnp.int32)
    expert_M = (end_E <= row_M[:, None]).sum(axis=1, dtype=jnp.int32)
    start_M = jnp.concatenate([jnp.zeros_like(end_E[:1]), end_E])[expert_M]
    within_M = (row_M - start_M) % hopper.ROWS
    return _slot(row_M - within_M, expert_M) * hopper.ROWS + within_M


def _store(width, dtype, scale, clamp, sums, outs, place, buffers):
    h, act, scales = outs
    gate, up = (total.astype(dtype).astype(jnp.float32) for total in sums)
    parts = [(gate, h, 0), (up, h, width), (_activation(gate, up, clamp, dtype), act, 0)]
    slot = pl.ds(_slot(place.row, place.group) * hopper.ROWS, hopper.ROWS)
    chunks = []
    for i, (x, out, start) in enumerate(parts):
        found = blocks.scales_of(blocks.magnitudes(x).max(axis=1), scale)
        scales[i * (width // SIDE) + place.col, slot] = found
        values = functools.partial(blocks.values_of, x, found, scale)
        chunks.append((values, out, start + place.col * SIDE))
    ring.store_chunks(chunks, place.row, place.num_rows, buffers)


def _activation(gate, up, clamp, dtype):
    if clamp is not None:
        gate, up = jnp.minimum(gate, clamp), jnp.minimum(jnp.maximum(up, -clamp), clamp)
    return (gate / (1 + jnp.exp(-gate)) * up).astype(dtype).astype(jnp.float32)
