"""SwiGLU on Hopper between products of FP8: one pass forward, and one backward.

    forward     h                        ->  Q(h), Q(a)                     a = swiglu(h)
    backward    a', Q(h), weight         ->  dh, Q(dh), weight a, dweight

as `stages.up_quantized` and `stages.activation_backward_quantized` define
them. Q is E4M3 in rows of 128 with
a scale each. A block of threads has 64 rows and 128 columns of each half of h: one block of each.
So h leaves in 8 bits along with a, and dh is read back from shared memory to be quantised. Backward
works on half of the columns at a time, since three float32 tiles fill the registers of a warpgroup.

For the clamp see `moe_mlp.activation`.

Letters: M rows, F expert width, J = F / 128 blocks of a half.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import hopper, passes
from pallas_kernels.moe_mlp import activation
from pallas_kernels.quantize import formats
from pallas_kernels.quantize.gpu import blocks

ROWS = hopper.ROWS
SIDE = formats.SIDE
_TILE = ROWS, SIDE
_PART = SIDE // 2
_WGMMA = plgpu.Layout.WGMMA


def forward(h_M2F, *, scale: formats.Scale, clamp: float | None, interpret: bool):
    """Values of h (M, 2F) and of a (M, F), and scales (3, J, M): the gate's, the up half's, a's.

    h has 16 bits; 64 divides M and 128 divides F.
    """
    num_rows, width = h_M2F.shape[0], h_M2F.shape[1] // 2
    halves = _halves(0, width)
    return passes.call(
        functools.partial(_forward, scale=scale, clamp=clamp, dtype=h_M2F.dtype),
        (h_M2F,),
        (
            jax.ShapeDtypeStruct(h_M2F.shape, formats.VALUES),
            jax.ShapeDtypeStruct((num_rows, width), formats.VALUES),
            jax.ShapeDtypeStruct((3, width // SIDE, num_rows), jnp.float32),
        ),
        loads=halves,
        stores=(*halves, passes.Tile(1, _TILE, _at), _of_scales(2, 3)),
        grid=(num_rows // ROWS, width // SIDE),
        name="swiglu_quantized",
        interpret=interpret,
        approx_math=True,
    )


def backward(
    dact_MF, h_M2F, scales_2JM, weight_M, *, scale: formats.Scale, clamp: float | None, interpret
):
    """dh (M, 2F), its values, weight a (M, F), scales (2, J, M) and the sums of dweight (J, M).

    dact, dh and weight a have 16 bits; h is E4M3 and the others float32.
    """
    num_rows, width = dact_MF.shape
    num_blocks, dtype = width // SIDE, dact_MF.dtype
    whole = passes.Tile(0, _TILE, _at)
    return passes.call(
        functools.partial(_backward, scale=scale, clamp=clamp, dtype=dtype),
        (dact_MF, h_M2F, scales_2JM, weight_M),
        (
            jax.ShapeDtypeStruct(h_M2F.shape, dtype),
            jax.ShapeDtypeStruct(h_M2F.shape, formats.VALUES),
            jax.ShapeDtypeStruct((num_rows, width), dtype),
            jax.ShapeDtypeStruct((2, num_blocks, num_rows), jnp.float32),
            jax.ShapeDtypeStruct((num_blocks, num_rows), jnp.float32),
        ),
        loads=(
            whole,
            *(part for half in _halves(1, width) for part in _parts(half)),
            _of_scales(2, 2),
            passes.Tile(3, (ROWS,), lambda row, col: pl.ds(row * ROWS, ROWS)),
        ),
        stores=(
            *_halves(0, width),
            *_halves(1, width),
            whole._replace(array=2),
            _of_scales(3, 2),
            passes.Tile(4, (ROWS,), lambda row, col: (col, pl.ds(row * ROWS, ROWS))),
        ),
        grid=(num_rows // ROWS, num_blocks),
        name="swiglu_quantized_backward",
        interpret=interpret,
        approx_math=True,
    )


def _at(row, col):
    return pl.ds(row * ROWS, ROWS), pl.ds(col * SIDE, SIDE)


def _halves(array: int, width: int) -> tuple[passes.Tile, passes.Tile]:
    """The same columns of the gate and of the up half of an array (M, 2F)."""
    gate = passes.Tile(array, _TILE, _at)
    return gate, gate._replace(at=lambda row, col: _at(row, col + width // SIDE))


def _parts(tile: passes.Tile) -> tuple[passes.Tile, ...]:
    """A tile cut in two between its columns."""

    def at(start, row, col):
        rows, cols = tile.at(row, col)
        return rows, pl.ds(cols.start + start, _PART)

    return tuple(
        passes.Tile(tile.array, (ROWS, _PART), functools.partial(at, start)) for start in (0, _PART)
    )


def _of_scales(array: int, num: int) -> passes.Tile:
    return passes.Tile(
        array, (num, ROWS), lambda row, col: (pl.ds(0, num), col, pl.ds(row * ROWS, ROWS))
    )


def _forward(loaded, stored, *, scale, clamp, dtype):
    *values, scales = stored
    for i, half in enumerate(loaded):
        blocks.store_rows(blocks.read(half), values[i], scales.at[i], scale)
    # Read again: both halves and their values do not fit registers.
    gate, up = activation.clip(blocks.read(loaded[0]), blocks.read(loaded[1]), clamp)
    act = (gate * _sigmoid(gate) * up).astype(dtype).astype(jnp.float32)
    blocks.store_rows(act, values[2], scales.at[2], scale)


def _backward(loaded, stored, *, scale, clamp, dtype):
    dact_smem, *h_smem, scales_smem, weight_smem = loaded
    gate_smem, up_smem = h_smem[:2], h_smem[2:]
    *dh_smem, gate_values, up_values, act_smem, dh_scales, dweight_smem = stored

    def to_columns(row_of_64):
        return lax.broadcast_in_dim(row_of_64, (ROWS, _PART), (0,))

    of_rows = functools.partial(plgpu.load, layout=_WGMMA.reduce(1), optimized=False)
    weight, *h_scales = of_rows(weight_smem), of_rows(scales_smem.at[0]), of_rows(scales_smem.at[1])
    dweight = None
    for i, parts in enumerate(zip(gate_smem, up_smem, strict=True)):
        cols = slice(None), pl.ds(i * _PART, _PART)
        dact = blocks.read(dact_smem.at[cols])
        raw_gate, raw_up = (
            # As it is read back, in the dtype of products.
            (blocks.read(part) * to_columns(each)).astype(dtype).astype(jnp.float32)
            for part, each in zip(parts, h_scales, strict=True)
        )
        gate, up = activation.clip(raw_gate, raw_up, clamp)
        sigmoid = _sigmoid(gate)
        silu = gate * sigmoid
        act = silu * up
        part = (dact * act).sum(axis=1)
        dweight = part if dweight is None else dweight + part
        dact *= to_columns(weight)
        act_smem[cols] = (to_columns(weight) * act).astype(dtype)
        dgate = dact * up * sigmoid * (1 + gate * (1 - sigmoid))
        dgate, dup = activation.keep_unclipped(dgate, dact * silu, raw_gate, raw_up, clamp)
        dh_smem[0][cols] = dgate.astype(dtype)
        dh_smem[1][cols] = dup.astype(dtype)
    dweight_smem[...] = dweight
    for i, (half, values) in enumerate(zip(dh_smem, (gate_values, up_values), strict=True)):
        blocks.store_rows(blocks.read(half), values, dh_scales.at[i], scale)


def _sigmoid(x):
    # A reciprocal square root is one instruction, a quotient about ten.
    return lax.rsqrt(1 + jnp.exp(-x)) ** 2
