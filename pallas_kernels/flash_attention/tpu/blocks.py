"""What the TPU kernels of both passes share: sizes, the walk over blocks of keys, hidden scores.

Scores are held as (keys, queries). What belongs to a query (its maximum, sum, log-sum-exp and
segment id) is then one row of a vector instead of a lane of each, and maxima and sums run down
sublanes without the cross-lane unit. A plain forward step of 1024 x 1024 scores at 192/128,
compiled both ways, has 3.6k bundles in libtpu's static schedule for v6e (4.5k as rows of queries)
and 7.9k for v5p (7.6k).

Letters: B batch, I tiles of queries, S queries of a tile, T keys of a block.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.flash_attention import tiles

LANES = 128
LOG2_E = math.log2(math.e)
HIDDEN = -0.7 * float(np.finfo(np.float32).max)  # two of them can be subtracted


@dataclasses.dataclass(frozen=True)
class Static:
    """What is fixed at trace time: true lengths, block sizes and what is done to scores.

    `chunk` is how many keys VMEM holds at a time, a multiple of block_kv.
    """

    num_rows: int
    num_cols: int
    causal: bool
    scale: float
    block_q: int
    block_kv: int
    chunk: int
    vmem_bytes: int
    interpret: bool

    @property
    def num_tiles(self) -> int:
        return pl.cdiv(self.num_rows, self.block_q)

    @property
    def num_chunks(self) -> int:
        return pl.cdiv(self.num_cols, self.chunk)

    @property
    def blocks_per_chunk(self) -> int:
        return self.chunk // self.block_kv


def visit_table(ids, static: Static):
    """The blocks that each tile of queries visits: one tiles.Range after another, flat int32.

    `ids` is () or the pair (q_ids_B11S, kv_ids_B11T), padded to whole tiles and blocks.
    """
    index = jnp.arange(static.num_tiles, dtype=jnp.int32)
    ranges = tiles.key_range(
        index,
        tile_q=static.block_q,
        block_kv=static.block_kv,
        num_rows=static.num_rows,
        num_cols=static.num_cols,
        causal=static.causal,
    )
    if ids:
        q_ids_BS, kv_ids_BT = (x[:, 0, 0] for x in ids)
        table = tiles.segment_ranges(
            q_ids_BS, kv_ids_BT, tile=static.block_q, block=static.block_kv, ranges=ranges
        )
    else:
        table = jnp.stack([jnp.broadcast_to(x, index.shape) for x in ranges], axis=-1)
    return table.astype(jnp.int32).ravel()


def visited(table_ref, batch, tile, static: Static) -> tiles.Range:
    """Where a tile of queries goes; without ids one sequence's table serves all."""
    is_shared = table_ref.shape[0] == 4 * static.num_tiles
    row = tile if is_shared else batch * static.num_tiles + tile
    return tiles.Range(*(table_ref[4 * row + i] for i in range(4)))


def walk(visits: tiles.Range, chunk, step, static: Static, *, is_packed: bool) -> None:
    """Calls step(block, rows, hides) for the visited blocks of a chunk.

    `rows` are the block's keys within the chunk; `hides` says that some may not be visible.
    """
    first = chunk * static.blocks_per_chunk
    may_hide = static.causal or is_packed or static.num_cols % static.block_kv != 0

    def body(block, _):
        rows = pl.ds(pl.multiple_of((block - first) * static.block_kv, LANES), static.block_kv)
        if not may_hide:
            step(block, rows, hides=False)
            return
        is_full = (block >= visits.full_first) & (block < visits.full_last)
        pl.when(is_full)(lambda: step(block, rows, hides=False))
        pl.when(~is_full)(lambda: step(block, rows, hides=True))

    lax.fori_loop(
        jnp.maximum(visits.first, first),
        jnp.minimum(visits.last, first + static.blocks_per_chunk),
        body,
        None,
    )


def hide(score_TS, tile, block, rows, id_refs, static: Static):
    """Scores of a block of keys and a tile of queries, HIDDEN where a query does not see a key.

    `id_refs` is () or the ids of the tile and those of the chunk, in which the block has `rows`.
    """
    row, col = tile * static.block_q, block * static.block_kv
    col_TS = lax.broadcasted_iota(jnp.int32, score_TS.shape, 0)
    if static.causal:
        row_TS = lax.broadcasted_iota(jnp.int32, score_TS.shape, 1)
        seen_TS = col_TS - row_TS <= row - col + static.num_cols - static.num_rows
    else:
        seen_TS = col_TS < static.num_cols - col
    if id_refs:
        q_ids_1S, kv_ids_1T = id_refs[0][...], id_refs[1][:, rows]
        seen_TS &= q_ids_1S == kv_ids_1T.T
    return jnp.where(seen_TS, score_TS, HIDDEN)


def dot(x, y, contract: tuple[int, int]):
    """The product of two blocks over one dimension of each, in float32."""
    # float32 inputs ask for float32 products, which take six passes.
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    dims = ((contract[:1], contract[1:]), ((), ()))
    return lax.dot_general(x, y, dims, precision=precision, preferred_element_type=jnp.float32)


def launch(static: Static, name: str, grid: tuple[int, ...]) -> dict:
    """Keywords of both kernels; v5p splits the first two dimensions between its two cores."""
    semantics = ("parallel", "parallel") + ("arbitrary",) * (len(grid) - 2)
    return dict(
        name=name,
        interpret=pltpu.InterpretParams(detect_races=True) if static.interpret else False,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=semantics, vmem_limit_bytes=static.vmem_bytes
        ),
    )


def spec(rows: int, cols: int, index) -> pl.BlockSpec:
    """One (rows, cols) block of a 4-dimensional array, at index(*grid indices, *prefetched)."""
    return pl.BlockSpec((None, None, rows, cols), index)
